//! `isthmus policy report`: who still speaks plaintext to whom, and whether Permissive can be ended; where refusals are only
//! recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::flows::v1::{Transport, Verdict};
use isthmus_proto::model::Enforcement;
use serde_json::{Value, json};

use super::departures;
use super::flows::{self, Recorded};
use super::permissive;
use super::target::Target;
use super::views::Views;
use crate::bypass;
use crate::connect::Policy;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::span;

/// Show who still speaks plaintext, or the app's own TLS, to whom; where Permissive can end; and where nothing is refused.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus policy report\n  \
    isthmus policy report shop/orders --last 30d\n  \
    isthmus policy report --all --json          mesh callers too")]
pub(super) struct Args {
    /// The callee: SERVICE, NAMESPACE/SERVICE, or NAMESPACE. Without it: all.
    target: Option<String>,
    /// How far to look back.
    #[arg(long, default_value = "7d", value_parser = span::parse, value_name = "DURATION")]
    last: Duration,
    /// Also those that come over the mesh.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Callers of a port that come in one way.
#[derive(Default)]
struct Line {
    count: u64,
    would_refuse: u64,
    refused: u64,
    first: i64,
    last: i64,
}

impl Line {
    fn add(&mut self, count: u64, verdict: Verdict, first: i64, last: i64) {
        self.first = if self.count == 0 { first } else { self.first.min(first) };
        self.last = self.last.max(last);
        self.count += count;
        self.would_refuse += if verdict == Verdict::WouldRefuse { count } else { 0 };
        self.refused += if verdict == Verdict::Refused { count } else { 0 };
    }
}

pub(super) async fn run(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let target = Target::find_or_all(args.target.as_deref(), operator).await?;
    let now_ms = SystemClock.now_ms();
    let recorded = flows::fetch(&mut policy, &target, args.last, true, now_ms).await?;
    let views = Views::stored(&mut policy, &[], &target.namespace, &target.service).await?;
    let mut lines: BTreeMap<[String; 3], Line> = BTreeMap::new();
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &recorded.flows {
        if let Some(left) = record.departure.as_ref().filter(|left| left.transport() == Transport::Plaintext) {
            let place = format!("{} (outside)", departures::place(left));
            let key = [place, record.workload.clone(), departures::transport(left)];
            lines.entry(key).or_default().add(
                left.count,
                left.verdict(),
                left.first_seen_unix_ms,
                left.last_seen_unix_ms,
            );
        }
        let Some(flow) = &record.flow else { continue };
        let way = match flow.transport() {
            Transport::Mesh => "mesh",
            Transport::Tls => "tls",
            Transport::Plaintext | Transport::Unspecified => "plaintext",
        };
        *totals.entry(way).or_default() += flow.count;
        if way == "mesh" && !args.all {
            continue;
        }
        let key = [flows::callee(record), flows::caller(flow), flows::transport(flow)];
        lines.entry(key).or_default().add(flow.count, flow.verdict(), flow.first_seen_unix_ms, flow.last_seen_unix_ms);
    }
    match args.output.format() {
        Format::Json => println!("{}", report_json(&lines, &totals, &recorded, &views, now_ms)),
        Format::Yaml => println!("{:#}", report_json(&lines, &totals, &recorded, &views, now_ms)),
        Format::Table => print!("{}", report_text(&lines, &totals, &recorded, &views, now_ms)),
    }
    Ok(())
}

fn report_text(
    lines: &BTreeMap<[String; 3], Line>,
    totals: &BTreeMap<&str, u64>,
    recorded: &Recorded,
    views: &Views,
    now_ms: i64,
) -> String {
    let mut text = String::new();
    let row = |([callee, caller, transport], line): (&[String; 3], &Line)| {
        let number = |n: u64| if n == 0 { "-".to_owned() } else { n.to_string() };
        vec![
            callee.clone(),
            caller.clone(),
            transport.clone(),
            line.count.to_string(),
            number(line.would_refuse),
            number(line.refused),
            when(line.last),
        ]
    };
    if lines.is_empty() {
        text.push_str("nobody speaks plaintext or TLS of its own here\n");
    } else {
        let head = ["CALLEE", "CALLER", "TRANSPORT", "COUNT", "WOULD REFUSE", "REFUSED", "LAST SEEN"];
        text.push_str(&table(&head, &lines.iter().map(row).collect::<Vec<_>>()));
    }
    let of = |way: &str| totals.get(way).copied().unwrap_or(0);
    text.push_str(&format!("{} mesh, {} TLS, {} plaintext\n", of("mesh"), of("tls"), of("plaintext")));
    for standing in standings(views) {
        text.push_str(&format!("{standing}\n"));
    }
    for (name, port) in permissive::ports(views, recorded, now_ms) {
        text.push_str(&format!("{}\n", port.text(&name)));
    }
    for gap in recorded.gaps() {
        text.push_str(&format!("note: {gap}\n"));
    }
    text
}

/// Where refusals are only recorded, and bypasses that are active.
fn standings(views: &Views) -> Vec<String> {
    let mut lines: Vec<String> = views.bypasses.iter().map(bypass::text).collect();
    let mut observed = Vec::new();
    for callee in &views.callees {
        for port in callee.inbound.ports() {
            let standing = port.standing;
            if standing.enforcement.unwrap_or(views.enforcement) == Enforcement::Observe {
                observed.extend(port.services.iter().map(ToString::to_string));
            }
        }
    }
    observed.sort();
    observed.dedup();
    if !observed.is_empty() {
        lines.push(format!("only observed, nothing is refused: {}", observed.join(", ")));
    }
    lines
}

fn report_json(
    lines: &BTreeMap<[String; 3], Line>,
    totals: &BTreeMap<&str, u64>,
    recorded: &Recorded,
    views: &Views,
    now_ms: i64,
) -> Value {
    let one = |([callee, caller, transport], line): (&[String; 3], &Line)| {
        json!({
            "callee": callee, "caller": caller, "transport": transport, "count": line.count,
            "wouldRefuse": line.would_refuse, "refused": line.refused,
            "firstSeenUnixMs": line.first, "lastSeenUnixMs": line.last,
        })
    };
    json!({
        "ok": true,
        "callers": lines.iter().map(one).collect::<Vec<_>>(),
        "totals": totals,
        "standing": standings(views),
        "bypasses": bypass::json_of(&views.bypasses),
        "permissive": permissive::ports(views, recorded, now_ms).iter().map(|(name, port)| port.json(name)).collect::<Vec<_>>(),
        "coverage": recorded.coverage_json(),
    })
}
