//! `isthmus apply`: documents in, every problem at once or one revision out, and with `--wait` how far it has got.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::asked::agreed;
use crate::connect::{self, Admin, Policy};
use crate::difference;
use crate::documents;
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, when};
use crate::policy::replay;
use crate::problems::{Problem, changes_json, changes_text, resource_name};
use crate::span;

/// Create or change resources: all of the input or nothing.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus apply -f mesh.yaml\n  \
    isthmus apply -f policies/ --dry-run       say what would change, and every mistake, as file:line:column\n  \
    isthmus apply -f orders.yaml --wait        end when every connected proxy has it in force\n  \
    isthmus apply -f orders.yaml --confirm 5m  taken back unless `isthmus confirm` is said\n  \
    cat orders.yaml | isthmus apply -f -\n  \
    isthmus apply -f team-a/ --prune --set team-a    and delete what this set held and the files do not name any more\n  \
    isthmus apply -f team-a/ --prune -l team=a       or what bears these labels\n\n\
    Warns of traffic of the last hour that the change would cut off; --dry-run tells it beforehand.\n\n\
    EXIT STATUS: 0 stored (with --wait: in force), 1 refused, 3 stored, but not in force everywhere in time")]
pub(crate) struct Args {
    /// A YAML file, a directory of them (.yaml, .yml), or `-` for stdin. May be repeated.
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// Check and compare with what is stored; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the change is in force in every connected proxy that it concerns.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Have the control plane take the change back after this time, unless `isthmus confirm` comes before.
    #[arg(long, conflicts_with = "dry_run", value_parser = span::parse, value_name = "DURATION")]
    confirm: Option<Duration>,
    /// Delete what belongs to the set or bears the labels, and is not in the input. Shows it and asks first.
    #[arg(long, requires = "pruned")]
    prune: bool,
    /// The name of this set of resources; the same each time, and nobody else's.
    #[arg(long, value_name = "NAME", group = "pruned", requires = "prune")]
    set: Option<String>,
    /// Labels that all of the input bears, and nothing but what came from there.
    #[arg(short = 'l', long, value_name = "NAME=VALUE,...", group = "pruned", requires = "prune", value_parser = labels)]
    selector: Option<Labels>,
    /// With --prune: do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Of documents that name none. Kubernetes' own kinds are otherwise in `default`.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// How long to wait for that.
    #[arg(long, default_value = "30s", value_parser = span::parse, value_name = "DURATION")]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(apply(args, operator)), format)
}

pub(crate) type Labels = BTreeMap<String, String>;

/// `team=a,tier=web`
pub(crate) fn labels(text: &str) -> Result<Labels, String> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{pair}` is no label; write NAME=VALUE")),
    };
    text.split(',').map(pair).collect()
}

/// What one apply asks for, beside its documents.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) dry_run: bool,
    pub(crate) confirm_seconds: u32,
    pub(crate) namespace: String,
    pub(crate) if_revision: u64,
    pub(crate) prune: Option<wire::Prune>,
}

impl Wanted {
    fn by(args: &Args) -> Wanted {
        let prune = || wire::Prune {
            set: args.set.clone().unwrap_or_default(),
            labels: args.selector.clone().unwrap_or_default(),
        };
        Wanted {
            dry_run: args.dry_run,
            confirm_seconds: args.confirm.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)),
            namespace: args.namespace.clone().unwrap_or_default(),
            if_revision: 0,
            prune: args.prune.then(prune),
        }
    }
}

async fn apply(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let format = args.output.format();
    let documents = documents::read(&args.file)?;
    let mut admin = Admin::connect(operator).await?;
    let cut_off = cut_off(&documents, operator).await;
    let mut wanted = Wanted::by(&args);
    if wanted.prune.is_some() && !args.dry_run {
        wanted.if_revision = agree_to_prune(&mut admin, &documents, &wanted, &args).await?;
    }
    let mut answer = send(&mut admin, documents, &wanted).await?;
    if !answer.problems.is_empty() {
        return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
    }
    // What wrote the input has failed, as a pipe does not tell; nobody means this.
    if answer.changes.is_empty() {
        return Err(Failure::new("there is no document in the input; nothing was changed", "look at what wrote it"));
    }
    answer.warnings.extend(cut_off);
    tell(&answer, args.dry_run, format);
    let mut report = json!({
        "ok": true,
        "dryRun": args.dry_run,
        "revision": answer.revision,
        "changes": changes_json(&answer.changes),
        "warnings": answer.warnings,
        "confirmUntilUnixMs": answer.confirm_until_unix_ms,
    });
    let mut end = Ok(());
    if args.wait {
        let (reached, waited) = wait_in_force(&mut admin, answer.revision, args.timeout, format).await;
        report["inForce"] = reached.as_ref().map_or(Value::Null, in_force_json);
        end = waited;
    }
    match (format, end) {
        (Format::Json, Err(failure)) => {
            // One object on stdout, whatever happened: the facts of the apply with the failure's own on top.
            if let (Some(report), Value::Object(failed)) = (report.as_object_mut(), failure.json()) {
                report.extend(failed);
            }
            println!("{report}");
            Err(failure.reported())
        }
        (Format::Json, Ok(())) => {
            println!("{report}");
            Ok(())
        }
        (_, end) => end,
    }
}

fn tell(answer: &wire::ApplyResponse, dry_run: bool, format: Format) {
    if format != Format::Json {
        print!("{}{}", changes_text(&answer.changes, dry_run), differences_text(&answer.changes));
    }
    if answer.confirm_until_unix_ms != 0 && format != Format::Json {
        let until = when(answer.confirm_until_unix_ms);
        println!("revision {} is taken back at {until}, unless `isthmus confirm` is said", answer.revision);
    }
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
}

/// Shows what would go and asks. What was shown is what happens: by the revision that it was shown at.
async fn agree_to_prune(
    admin: &mut Admin,
    documents: &[wire::Document],
    wanted: &Wanted,
    args: &Args,
) -> Result<u64, Failure> {
    let first = Wanted { dry_run: true, confirm_seconds: 0, ..wanted.clone() };
    let shown = send(admin, documents.to_vec(), &first).await?;
    if !shown.problems.is_empty() {
        return Err(Failure::invalid(shown.problems.into_iter().map(Problem::from).collect()));
    }
    let gone: Vec<wire::Change> =
        shown.changes.into_iter().filter(|change| change.kind() == wire::ChangeKind::Deleted).collect();
    if gone.is_empty() {
        return Ok(shown.revision);
    }
    let list = changes_text(&gone, true);
    if !args.yes {
        eprint!("{list}");
    }
    let question =
        format!("Delete {}?", if gone.len() == 1 { "it".to_owned() } else { format!("these {}", gone.len()) });
    match agreed(args.yes, &question)? {
        true => Ok(shown.revision),
        false => Err(Failure::plain("not agreed to; nothing was changed")),
    }
}

/// What an apply would change, printed; whether it would change anything.
pub(crate) async fn preview(
    files: &[PathBuf],
    namespace: Option<&str>,
    operator: &OperatorArgs,
    format: Format,
) -> Result<bool, Failure> {
    let documents = documents::read(files)?;
    let mut admin = Admin::connect(operator).await?;
    let wanted = Wanted { dry_run: true, namespace: namespace.unwrap_or_default().to_owned(), ..Wanted::default() };
    let answer = send(&mut admin, documents, &wanted).await?;
    if !answer.problems.is_empty() {
        return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
    }
    let differs = answer.changes.iter().any(|change| change.kind() != wire::ChangeKind::Unchanged);
    match format {
        Format::Json => {
            println!("{}", json!({ "ok": true, "differs": differs, "changes": changes_json(&answer.changes) }))
        }
        Format::Table | Format::Yaml => print!("{}", differences_text(&answer.changes)),
    }
    Ok(differs)
}

/// Of a dry run: each resource that would change, line by line.
pub(crate) fn differences_text(changes: &[wire::Change]) -> String {
    let mut text = String::new();
    for change in changes.iter().filter(|change| change.after_yaml != change.before_yaml) {
        let name = change.resource.as_ref().map(resource_name).unwrap_or_default();
        text.push_str(&format!("\n{name}\n{}", difference::unified(&change.before_yaml, &change.after_yaml)));
    }
    text
}

/// In as many messages as it takes; the control plane makes one change of them.
pub(crate) async fn send(
    admin: &mut Admin,
    documents: Vec<wire::Document>,
    wanted: &Wanted,
) -> Result<wire::ApplyResponse, Failure> {
    let Wanted { dry_run, confirm_seconds, namespace, if_revision, prune } = wanted.clone();
    let mut parts = documents::parts(documents, dry_run);
    // What the first part says holds for all.
    if let Some(part) = parts.first_mut() {
        (part.confirm_seconds, part.if_revision) = (confirm_seconds, if_revision);
        (part.namespace, part.prune) = (namespace.clone(), prune.clone());
    }
    match (parts.pop(), parts.is_empty()) {
        (Some(wire::ApplyPart { documents, .. }), true) => {
            let request = wire::ApplyRequest { documents, dry_run, confirm_seconds, namespace, if_revision, prune };
            admin.call(async |client| client.apply(request).await).await
        }
        (last, _) => {
            parts.extend(last);
            admin.call(async |client| client.apply_stream(tokio_stream::iter(parts)).await).await
        }
    }
}

/// Lines that a list of warnings may have.
const MOST_WARNINGS: usize = 20;

/// What was seen within the last hour and would be refused from now on. A control plane that cannot tell stops no apply.
async fn cut_off(documents: &[wire::Document], operator: &OperatorArgs) -> Vec<String> {
    let concerned = ["ServicePolicy", "EgressPolicy", "Enforcement", "MeshConfig", "Service", "Workload", "Site"];
    if !documents.iter().any(|document| concerned.iter().any(|kind| document.yaml.contains(kind))) {
        return Vec::new();
    }
    let found = async {
        let mut policy = Policy::connect(operator).await?;
        replay::cut_off(&mut policy, documents.to_vec()).await
    };
    let Ok(mut found) = found.await else { return Vec::new() };
    let more = found.len().saturating_sub(MOST_WARNINGS);
    found.truncate(MOST_WARNINGS);
    let mut lines: Vec<String> = found.into_iter().map(|line| format!("this cuts off {line}")).collect();
    if more > 0 {
        lines.push(format!("and {more} more; `isthmus policy replay -f` shows all"));
    }
    lines
}

/// Follows the revision to its end. Returns the last count that arrived, and how it ended.
async fn wait_in_force(
    admin: &mut Admin,
    revision: u64,
    limit: Duration,
    format: Format,
) -> (Option<wire::InForce>, Result<(), Failure>) {
    let deadline = Instant::now() + limit;
    let mut last = None;
    let follow = async {
        let request = wire::WaitInForceRequest { revision };
        let mut progress = admin.call(async |client| client.wait_in_force(request).await).await?;
        while let Some(now) = progress.message().await.map_err(|status| connect::refused(&status))? {
            if format != Format::Json && !now.complete && std::io::stderr().is_terminal() {
                // One line that is written over: back to its begin, and what was there erased.
                eprint!("\r\x1b[K{}", in_force_text(&now));
            }
            last = Some(now);
        }
        Ok(())
    };
    let followed = timeout_at(deadline, follow).await;
    if format != Format::Json && std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let end = match followed {
        Ok(Ok(())) => judge(last.as_ref(), revision),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(late(last.as_ref(), revision, limit)),
    };
    if let (Ok(()), Some(now), true) = (&end, &last, format != Format::Json) {
        println!("{}", in_force_text(now));
    }
    (last, end)
}

/// The stream has ended: did every connected proxy take the change?
fn judge(last: Option<&wire::InForce>, revision: u64) -> Result<(), Failure> {
    let Some(now) = last else {
        return Err(Failure::plain(format!(
            "revision {revision} is stored, but the control plane did not say how far it has got"
        )));
    };
    if now.pending.iter().any(|proxy| proxy.state.starts_with("refused")) {
        return Err(Failure::new(
            format!("revision {revision} is stored, but not every proxy accepted it: {}", in_force_text(now)),
            "`isthmus get proxies` shows each proxy's error; what it cannot understand it refuses to serve",
        ));
    }
    Ok(())
}

fn late(last: Option<&wire::InForce>, revision: u64, limit: Duration) -> Failure {
    let so_far = last.map_or_else(|| "no proxy has answered yet".to_owned(), in_force_text);
    Failure::timed_out(
        format!("revision {revision} is stored, but not in force everywhere after {limit:?}: {so_far}"),
        "`isthmus get proxies` shows who is behind; the change stays stored and they will get it",
    )
}

/// Names of one state beyond this are only counted.
const NAMED: usize = 8;

/// `398/400 in force in 210 ms; shop/vm-113, shop/vm-290 offline since 2026-11-22T08:15:02Z`
pub(crate) fn in_force_text(now: &wire::InForce) -> String {
    let took = span::show_us(now.elapsed_us);
    let away = now.pending.iter().filter(|proxy| proxy.state == "offline");
    // Nobody waits for who is away, but it is not in force there either.
    let all = now.affected as usize + away.clone().count();
    let mut text = match all {
        0 => "stored; no proxy is concerned".to_owned(),
        all => format!("{}/{all} in force in {took}", now.acknowledged),
    };
    if !now.silent.is_empty() {
        text.push_str(&format!("; control plane {} has not said yet", now.silent.join(", ")));
    }
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for proxy in &now.pending {
        let state = match (proxy.state.as_str(), proxy.since_unix_ms) {
            ("offline", 0) => "offline".to_owned(),
            ("offline", since) => format!("offline since {}", when(since)),
            ("connected", _) => "not yet".to_owned(),
            (refused, _) => refused.to_owned(),
        };
        groups.entry(state).or_default().push(&proxy.workload);
    }
    for (state, names) in groups {
        let more = names.len().saturating_sub(NAMED);
        let names = names[..names.len() - more].join(", ");
        match more {
            0 => text.push_str(&format!("; {names} {state}")),
            more => text.push_str(&format!("; {names} and {more} more {state}")),
        }
    }
    text
}

fn in_force_json(now: &wire::InForce) -> Value {
    let pending =
        |p: &wire::PendingProxy| json!({ "workload": p.workload, "state": p.state, "sinceUnixMs": p.since_unix_ms });
    json!({
        "revision": now.revision,
        "affected": now.affected,
        "acknowledged": now.acknowledged,
        "pending": now.pending.iter().map(pending).collect::<Vec<_>>(),
        "elapsedUs": now.elapsed_us,
        "complete": now.complete,
        "silent": now.silent,
    })
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod apply_test;
