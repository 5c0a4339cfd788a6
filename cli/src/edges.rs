//! `isthmus edges`: who talks to whom, secured how, over which link; and what leaves the mesh. From the decisions that the
//! proxies report, so it shows what was seen and not what might be.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::{Transport, Verdict};
use serde_json::{Value, json};

use crate::connect::{self, Admin, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};
use crate::policy::departures;
use crate::policy::flows::{self, Recorded};
use crate::policy::target::Target;
use crate::span;

/// Show who talks to whom, secured how, over which link, and what leaves the mesh.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus edges                          the last hour\n  \
    isthmus edges shop/orders --last 7d    to one service (and what its workloads send out of the mesh)\n  \
    isthmus edges --insecure --json        only what is not mutual TLS\n\n\
    A caller is its identity; without one, its address. Counts are decisions: requests of HTTP, connections of the rest.\n\n\
    EXIT STATUS: 0 shown, also where there is nothing; 1 failed, 2 wrong usage")]
pub(crate) struct Args {
    /// The callee: SERVICE, NAMESPACE/SERVICE, or NAMESPACE. Without it: all.
    target: Option<String>,
    /// How far to look back.
    #[arg(long, default_value = "1h", value_parser = span::parse, value_name = "DURATION")]
    last: Duration,
    /// Only what is not mutual TLS between sidecars.
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(edges(args, format, operator)), format)
}

/// Who calls whom, and how: what one line is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    caller: String,
    callee: String,
    secured: String,
    from_site: String,
    to_site: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    count: u64,
    refused: u64,
    last: i64,
}

impl Seen {
    fn add(&mut self, count: u64, verdict: Verdict, last: i64) {
        self.count += count;
        self.refused += if verdict == Verdict::Refused { count } else { 0 };
        self.last = self.last.max(last);
    }
}

/// Where the mesh's workloads and links are.
#[derive(Debug, Default)]
struct Places {
    /// By workload.
    sites: BTreeMap<String, String>,
    /// Names, by the sites that they join, in both orders.
    links: BTreeMap<(String, String), BTreeSet<String>>,
}

async fn edges(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let target = Target::find_or_all(args.target.as_deref(), operator).await?;
    let mut policy = Policy::connect(operator).await?;
    let recorded = flows::fetch(&mut policy, &target, args.last, true, SystemClock.now_ms()).await?;
    let places = Places::stored(&mut Admin::connect(operator).await?).await?;
    let mut edges = grouped(&recorded.flows, &places);
    if args.insecure {
        edges.retain(|edge, _| edge.secured != MUTUAL);
    }
    match format {
        Format::Json => println!("{}", answer(&edges, &places, &recorded)),
        Format::Yaml => println!("{:#}", answer(&edges, &places, &recorded)),
        Format::Table => {
            if edges.is_empty() {
                println!("nobody was seen talking to anybody here");
            } else {
                let head = ["CALLER", "CALLEE", "SECURED", "OVER", "COUNT", "REFUSED", "LAST SEEN"];
                print!(
                    "{}",
                    table(&head, &edges.iter().map(|(edge, seen)| row(edge, seen, &places)).collect::<Vec<_>>())
                );
            }
            recorded.gaps().iter().for_each(|gap| println!("note: {gap}"));
        }
    }
    Ok(())
}

const MUTUAL: &str = "mTLS";

fn grouped(records: &[wire::RecordedFlow], places: &Places) -> BTreeMap<Edge, Seen> {
    let mut edges: BTreeMap<Edge, Seen> = BTreeMap::new();
    let site = |workload: &str| places.sites.get(workload).cloned().unwrap_or_default();
    for record in records {
        if let Some(flow) = &record.flow {
            let secured = if flow.transport() == Transport::Mesh { MUTUAL.to_owned() } else { flows::transport(flow) };
            let edge = Edge {
                caller: flows::caller(flow),
                callee: flows::callee(record),
                secured,
                from_site: flow.site.clone(),
                to_site: site(&record.workload),
            };
            edges.entry(edge).or_default().add(flow.count, flow.verdict(), flow.last_seen_unix_ms);
        }
        if let Some(left) = &record.departure {
            let edge = Edge {
                caller: record.workload.clone(),
                callee: departures::place(left),
                secured: departures::transport(left),
                from_site: site(&record.workload),
                to_site: OUTSIDE.to_owned(),
            };
            edges.entry(edge).or_default().add(left.count, left.verdict(), left.last_seen_unix_ms);
        }
    }
    edges
}

/// In place of a site. No Site is called so: names are labels.
const OUTSIDE: &str = "(outside)";

impl Places {
    async fn stored(admin: &mut Admin) -> Result<Places, Failure> {
        let mut places = Places::default();
        for stored in list(admin, "Workload").await? {
            let (at, spec) = (stored.resource.clone().unwrap_or_default(), spec(&stored));
            let site = spec["site"].as_str().unwrap_or_default().to_owned();
            places.sites.insert(format!("{}/{}", at.namespace, at.name), site);
        }
        for stored in list(admin, "Link").await? {
            let name = stored.resource.clone().unwrap_or_default().name;
            let sites: Vec<String> = serde_json::from_value(spec(&stored)["sites"].clone()).unwrap_or_default();
            for (one, other) in sites.iter().flat_map(|one| sites.iter().map(move |other| (one, other))) {
                if one != other {
                    places.links.entry((one.clone(), other.clone())).or_default().insert(name.clone());
                }
            }
        }
        Ok(places)
    }

    /// The links between two sites; none where both are one, or nobody knows.
    fn over(&self, edge: &Edge) -> Vec<&str> {
        let links = self.links.get(&(edge.from_site.clone(), edge.to_site.clone()));
        links.map(|names| names.iter().map(String::as_str).collect()).unwrap_or_default()
    }
}

async fn list(admin: &mut Admin, kind: &str) -> Result<Vec<wire::StoredResource>, Failure> {
    let request = wire::ListRequest { kind: kind.to_owned(), ..Default::default() };
    Ok(admin.call(async |client| client.list(request).await).await?.resources)
}

fn spec(stored: &wire::StoredResource) -> Value {
    let document: Value = serde_json::from_str(&stored.json).unwrap_or_default();
    document["spec"].clone()
}

/// `expressroute (azure-eastus → dc1)`, `dc1`, or where it left the mesh.
fn over_text(edge: &Edge, places: &Places) -> String {
    let (from, to) = (or_dash(&edge.from_site), or_dash(&edge.to_site));
    match places.over(edge).as_slice() {
        _ if from == to => from,
        [] => format!("{from} → {to}"),
        links => format!("{} ({from} → {to})", links.join(", ")),
    }
}

fn row(edge: &Edge, seen: &Seen, places: &Places) -> Vec<String> {
    vec![
        edge.caller.clone(),
        edge.callee.clone(),
        edge.secured.clone(),
        over_text(edge, places),
        seen.count.to_string(),
        if seen.refused == 0 { "-".to_owned() } else { seen.refused.to_string() },
        when(seen.last),
    ]
}

fn answer(edges: &BTreeMap<Edge, Seen>, places: &Places, recorded: &Recorded) -> Value {
    let one = |(edge, seen): (&Edge, &Seen)| {
        json!({
            "caller": edge.caller, "callee": edge.callee, "secured": edge.secured,
            "mutualTls": edge.secured == MUTUAL, "outOfMesh": edge.to_site == OUTSIDE,
            "fromSite": edge.from_site, "toSite": edge.to_site, "links": places.over(edge),
            "count": seen.count, "refused": seen.refused, "lastSeenUnixMs": seen.last,
        })
    };
    let edges: Vec<Value> = edges.iter().map(one).collect();
    json!({ "ok": true, "edges": edges, "gaps": recorded.gaps(), "coverage": recorded.coverage_json() })
}

#[cfg(test)]
#[path = "edges_test.rs"]
mod edges_test;
