//! `isthmus apply`: documents in, every problem at once or one revision out, and with `--wait` how far it has got.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

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
    cat orders.yaml | isthmus apply -f -\n\n\
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

async fn apply(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let format = args.output.format();
    let documents = documents::read(&args.file)?;
    let mut admin = Admin::connect(operator).await?;
    let cut_off = cut_off(&documents, operator).await;
    let confirm_seconds = args.confirm.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1));
    let mut answer = send(&mut admin, documents, args.dry_run, confirm_seconds).await?;
    if !answer.problems.is_empty() {
        return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
    }
    if format != Format::Json {
        print!("{}", changes_text(&answer.changes, args.dry_run));
        print!("{}", differences_text(&answer.changes));
    }
    answer.warnings.extend(cut_off);
    if answer.confirm_until_unix_ms != 0 && format != Format::Json {
        let until = when(answer.confirm_until_unix_ms);
        println!("revision {} is taken back at {until}, unless `isthmus confirm` is said", answer.revision);
    }
    for warning in &answer.warnings {
        eprintln!("warning: {warning}");
    }
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

/// What an apply would change, printed; whether it would change anything.
pub(crate) async fn preview(files: &[PathBuf], operator: &OperatorArgs, format: Format) -> Result<bool, Failure> {
    let documents = documents::read(files)?;
    let mut admin = Admin::connect(operator).await?;
    let answer = send(&mut admin, documents, true, 0).await?;
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
fn differences_text(changes: &[wire::Change]) -> String {
    let mut text = String::new();
    for change in changes.iter().filter(|change| !change.after_yaml.is_empty()) {
        let name = change.resource.as_ref().map(resource_name).unwrap_or_default();
        text.push_str(&format!("\n{name}\n{}", difference::unified(&change.before_yaml, &change.after_yaml)));
    }
    text
}

/// In as many messages as it takes; the control plane makes one change of them.
async fn send(
    admin: &mut Admin,
    documents: Vec<wire::Document>,
    dry_run: bool,
    confirm_seconds: u32,
) -> Result<wire::ApplyResponse, Failure> {
    let mut parts = documents::parts(documents, dry_run);
    // What the first part says holds for all.
    parts.iter_mut().take(1).for_each(|part| part.confirm_seconds = confirm_seconds);
    match (parts.pop(), parts.is_empty()) {
        (Some(wire::ApplyPart { documents, .. }), true) => {
            let request = wire::ApplyRequest { documents, dry_run, confirm_seconds, ..Default::default() };
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
                eprintln!("{}", in_force_text(&now));
            }
            last = Some(now);
        }
        Ok(())
    };
    let end = match timeout_at(deadline, follow).await {
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

/// `2/3 in force in 41 ms; offline: shop/vm-7`
pub(crate) fn in_force_text(now: &wire::InForce) -> String {
    let took = span::show_us(now.elapsed_us);
    let mut text = match now.affected {
        0 => "stored; no proxy is concerned".to_owned(),
        affected => format!("{}/{affected} in force in {took}", now.acknowledged),
    };
    for (state, word) in [("offline", "offline"), ("connected", "not yet")] {
        let names: Vec<&str> = now.pending.iter().filter(|p| p.state == state).map(|p| p.workload.as_str()).collect();
        if !names.is_empty() {
            text.push_str(&format!("; {word}: {}", names.join(", ")));
        }
    }
    for proxy in now.pending.iter().filter(|p| p.state.starts_with("refused")) {
        text.push_str(&format!("; {} {}", proxy.workload, proxy.state));
    }
    text
}

fn in_force_json(now: &wire::InForce) -> Value {
    let pending = |p: &wire::PendingProxy| json!({ "workload": p.workload, "state": p.state });
    json!({
        "revision": now.revision,
        "affected": now.affected,
        "acknowledged": now.acknowledged,
        "pending": now.pending.iter().map(pending).collect::<Vec<_>>(),
        "elapsedUs": now.elapsed_us,
        "complete": now.complete,
    })
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod apply_test;
