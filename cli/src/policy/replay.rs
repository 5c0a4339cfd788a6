//! `isthmus policy replay`: a policy that is not in force yet, on what the mesh has seen. Allowed, refused, or nobody can
//! tell, which counts as a risk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::Transport;
use isthmus_proto::model::Enforcement;
use serde_json::{Value, json};

use super::departures;
use super::flows::{self, Recorded};
use super::judge::{self, Verdict};
use super::target::Target;
use super::views::{Callee, Views};
use crate::connect::Policy;
use crate::documents;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::span;

/// Run policies over the recorded decisions of the mesh, with the proxy's own engine, as if all were enforced: those in
/// Audit too.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus policy replay -f orders.yaml                  laid over what is stored\n  \
    isthmus policy replay -f policies/ --last 30d --json\n  \
    isthmus policy replay --target shop/orders            what is stored, if it were enforced\n\n\
    EXIT STATUS: 0 everybody seen would be allowed, 4 somebody would be refused or nobody can tell, 1 failed")]
pub(super) struct Args {
    /// A YAML file, a directory of them, or `-`. May be repeated; laid over what is stored.
    #[arg(short, long = "file", value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// How far to look back.
    #[arg(long, default_value = "7d", value_parser = span::parse, value_name = "DURATION")]
    last: Duration,
    /// Only this callee: SERVICE, NAMESPACE/SERVICE, or NAMESPACE.
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// One caller's way, and what would become of it.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) callee: String,
    pub(crate) caller: String,
    request: String,
    pub(crate) transport: String,
    pub(crate) plaintext: bool,
    /// It left the mesh; the callee is where it went.
    pub(crate) out: bool,
    count: u64,
    last_seen: i64,
    pub(crate) verdict: Verdict,
}

/// What a replay found.
pub(crate) struct Replayed {
    pub(crate) outcomes: Vec<Outcome>,
    /// Records of workloads that are not there any more, or not yet.
    gone: usize,
}

pub(super) async fn run(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let target = Target::find_or_all(args.target.as_deref(), operator).await?;
    let now_ms = SystemClock.now_ms();
    let documents = if args.file.is_empty() { Vec::new() } else { documents::read(&args.file)? };
    let views = Views::as_enforced(&mut policy, documents, &target.namespace, &target.service).await?;
    let recorded = flows::fetch(&mut policy, &target, args.last, true, now_ms).await?;
    let replayed = replay(&views, &recorded.flows, now_ms);
    match args.output.format() {
        Format::Json => println!("{}", replayed.json(&recorded)),
        Format::Yaml => println!("{:#}", replayed.json(&recorded)),
        Format::Table => print!("{}", replayed.text(&recorded)),
    }
    if replayed.risks().next().is_some() { Err(Failure::answered_no()) } else { Ok(()) }
}

pub(crate) fn replay(views: &Views, records: &[wire::RecordedFlow], now_ms: i64) -> Replayed {
    let mut replayed = Replayed { outcomes: Vec::new(), gone: 0 };
    let mut together: BTreeMap<[String; 4], usize> = BTreeMap::new();
    for record in records {
        let workload = views.callee(&record.workload);
        let Some(outcome) = workload.and_then(|workload| outcome(views, record, workload, now_ms)) else {
            replayed.gone += 1;
            continue;
        };
        let key = [&outcome.callee, &outcome.caller, &outcome.request, &outcome.transport].map(String::clone);
        match together.get(&key).map(|at| &mut replayed.outcomes[*at]) {
            // Two addresses or hosts of one caller: the worse of the two verdicts is shown.
            Some(held) => {
                held.count += outcome.count;
                held.last_seen = held.last_seen.max(outcome.last_seen);
                if badness(&outcome.verdict) > badness(&held.verdict) {
                    held.verdict = outcome.verdict;
                }
            }
            None => {
                together.insert(key, replayed.outcomes.len());
                replayed.outcomes.push(outcome);
            }
        }
    }
    replayed.outcomes.sort_by(|a, b| {
        (badness(&b.verdict), &a.callee, &a.caller, &a.request).cmp(&(
            badness(&a.verdict),
            &b.callee,
            &b.caller,
            &b.request,
        ))
    });
    replayed
}

fn outcome(views: &Views, record: &wire::RecordedFlow, of: &Callee, now_ms: i64) -> Option<Outcome> {
    if let Some(left) = &record.departure {
        return Some(Outcome {
            callee: departures::place(left),
            caller: record.workload.clone(),
            request: String::new(),
            transport: departures::transport(left),
            plaintext: left.transport() == Transport::Plaintext,
            out: true,
            count: left.count,
            last_seen: left.last_seen_unix_ms,
            verdict: departures::judge(of, left),
        });
    }
    let flow = record.flow.as_ref()?;
    Some(Outcome {
        callee: flows::callee(record),
        caller: flows::caller(flow),
        request: flows::request(flow),
        transport: flows::transport(flow),
        plaintext: flow.transport() == Transport::Plaintext,
        out: false,
        count: flow.count,
        last_seen: flow.last_seen_unix_ms,
        verdict: judge::judge(views, of, &flows::asked(flow, of, now_ms)),
    })
}

fn badness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allowed(_) => 0,
        Verdict::CannotTell(_) => 1,
        Verdict::Refused(_) => 2,
    }
}

impl Replayed {
    /// Refused, or nobody can tell.
    pub(crate) fn risks(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| badness(&outcome.verdict) > 0)
    }

    /// `12 callers, 2 plaintext, 0 would break`; and the same of what leaves the mesh, if something does.
    pub(crate) fn summary(&self) -> String {
        let came = self
            .summary_of(false, ["caller", "callers"])
            .unwrap_or_else(|| "0 callers, 0 plaintext, 0 would break".to_owned());
        match self.summary_of(true, ["way out of the mesh", "ways out of the mesh"]) {
            Some(left) => format!("{came}; {left}"),
            None => came,
        }
    }

    fn summary_of(&self, out: bool, words: [&str; 2]) -> Option<String> {
        let pairs = |holds: &dyn Fn(&Outcome) -> bool| {
            let those = self.outcomes.iter().filter(|outcome| outcome.out == out && holds(outcome));
            those.map(|outcome| (&outcome.callee, &outcome.caller)).collect::<BTreeSet<_>>().len()
        };
        let count = pairs(&|_| true);
        let plain = pairs(&|outcome| outcome.plaintext);
        let broken = pairs(&|outcome| badness(&outcome.verdict) == 2);
        let unclear = pairs(&|outcome| badness(&outcome.verdict) == 1);
        let word = words[usize::from(count != 1)];
        let unclear = if unclear == 0 { String::new() } else { format!(", {unclear} nobody can tell") };
        (count > 0).then(|| format!("{count} {word}, {plain} plaintext, {broken} would break{unclear}"))
    }

    fn text(&self, recorded: &Recorded) -> String {
        let row = |outcome: &Outcome| {
            vec![
                word(&outcome.verdict).to_owned(),
                outcome.callee.clone(),
                outcome.caller.clone(),
                outcome.transport.clone(),
                if outcome.request.is_empty() { "-".to_owned() } else { outcome.request.clone() },
                outcome.count.to_string(),
                when(outcome.last_seen),
                why(&outcome.verdict),
            ]
        };
        let head = ["VERDICT", "CALLEE", "CALLER", "TRANSPORT", "REQUEST", "COUNT", "LAST SEEN", "BECAUSE"];
        let rows: Vec<_> = self.outcomes.iter().map(row).collect();
        let mut text = if rows.is_empty() { String::new() } else { table(&head, &rows) };
        text.push_str(&format!("{}\n", self.summary()));
        for gap in self.gaps(recorded) {
            text.push_str(&format!("note: {gap}\n"));
        }
        text
    }

    pub(crate) fn gaps(&self, recorded: &Recorded) -> Vec<String> {
        let mut gaps = recorded.gaps();
        if self.gone > 0 {
            gaps.push(format!("{} records are of workloads that do not exist in it", self.gone));
        }
        gaps
    }

    pub(crate) fn json(&self, recorded: &Recorded) -> Value {
        let of = |badness_is: u8| self.outcomes.iter().filter(|o| badness(&o.verdict) == badness_is).count();
        let one = |outcome: &Outcome| {
            let missing = match &outcome.verdict {
                Verdict::CannotTell(missing) => missing.iter().cloned().collect(),
                _ => Vec::new(),
            };
            json!({
                "verdict": word(&outcome.verdict), "callee": outcome.callee, "caller": outcome.caller,
                "outOfMesh": outcome.out,
                "transport": outcome.transport, "request": outcome.request, "count": outcome.count,
                "lastSeenUnixMs": outcome.last_seen, "because": why(&outcome.verdict), "missing": missing,
            })
        };
        json!({
            "ok": self.risks().next().is_none(),
            "summary": self.summary(),
            "allowed": of(0), "cannotTell": of(1), "refused": of(2),
            "outcomes": self.outcomes.iter().map(one).collect::<Vec<_>>(),
            "gaps": self.gaps(recorded),
            "coverage": recorded.coverage_json(),
        })
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed(_) => "allowed",
        Verdict::Refused(_) => "refused",
        Verdict::CannotTell(_) => "cannot tell",
    }
}

fn why(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allowed(found) => match (&found.policy, found.rule) {
            (Some(policy), Some(rule)) => format!("{policy} spec.allow[{rule}]"),
            _ => "nothing closes it".to_owned(),
        },
        Verdict::Refused(found) => found.sentence.clone(),
        Verdict::CannotTell(missing) => {
            format!("not recorded: {}", missing.iter().cloned().collect::<Vec<_>>().join(", "))
        }
    }
}

/// For `apply`: what was seen within the last hour and would be refused from now on, though it is not now. One line each.
pub(crate) async fn cut_off(policy: &mut Policy, documents: Vec<wire::Document>) -> Result<Vec<String>, Failure> {
    const LATELY: Duration = Duration::from_secs(3600);
    let now_ms = SystemClock.now_ms();
    let recorded = flows::fetch(policy, &Target::default(), LATELY, true, now_ms).await?;
    if recorded.flows.is_empty() {
        return Ok(Vec::new());
    }
    let before = Views::stored(policy, &[], "", "").await?;
    let after = Views::with(policy, documents, "", "").await?;
    let mut lines = BTreeSet::new();
    for record in &recorded.flows {
        let Some(refused) = refused(&after, record, now_ms) else { continue };
        if self::refused(&before, record, now_ms).is_none() {
            let what = format!("{} {}", refused.transport, refused.request);
            let Outcome { caller, callee, .. } = &refused;
            let (seen, why) = (when(refused.last_seen), why(&refused.verdict));
            lines.insert(format!("{caller} → {callee} ({}), seen {seen}: {why}", what.trim()));
        }
    }
    Ok(lines.into_iter().collect())
}

/// What becomes of it, if it would be refused, and the refusal carried out.
fn refused(views: &Views, record: &wire::RecordedFlow, now_ms: i64) -> Option<Outcome> {
    let of = views.callee(&record.workload)?;
    let outcome = outcome(views, record, of, now_ms)?;
    let enforced = match &record.flow {
        Some(flow) => {
            let port = u16::try_from(flow.port).unwrap_or(0);
            of.port(port).standing.is_enforced(views.enforcement, || now_ms)
        }
        None => views.enforcement == Enforcement::Enforce,
    };
    (enforced && badness(&outcome.verdict) == 2).then_some(outcome)
}
