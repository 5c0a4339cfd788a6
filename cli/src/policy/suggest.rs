//! `isthmus policy suggest`: the smallest allow-list that fits what was seen, as rules in Audit. Nothing in it is wider
//! than what was seen: a caller is its identity, a path its template; what cannot be named so is said and left out.

#[path = "suggest_egress.rs"]
mod egress;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use isthmus_certs::{Clock, SpiffeId, SystemClock};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::{Flow, Transport, Verdict};
use serde_json::{Value, json};

use super::flows;
use super::target::Target;
use crate::connect::Policy;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, when};
use crate::span;

/// Write the smallest allow-list that fits what a service has seen, or what has left the mesh, as rules in Audit.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus policy suggest shop/orders > orders.yaml\n  \
    isthmus policy suggest shop/orders --last 30d --json\n  \
    isthmus policy suggest shop/orders --egress      where its workloads may go outside of the mesh\n  \
    isthmus policy suggest shop --egress             the same for a whole namespace\n\n\
    The policy refuses nothing (mode: Audit) until its author takes that line out. What was refused is not in it.")]
pub(super) struct Args {
    /// SERVICE or NAMESPACE/SERVICE; with --egress also NAMESPACE
    service: String,
    /// An EgressPolicy, of the places outside of the mesh that its workloads went to.
    #[arg(long)]
    egress: bool,
    /// How far to look back.
    #[arg(long, default_value = "7d", value_parser = span::parse, value_name = "DURATION")]
    last: Duration,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let target = Target::find(&args.service, operator).await?;
    if args.egress {
        return egress::run(&args, &target, operator).await;
    }
    if target.service.is_empty() {
        let what = format!("`{}` is a namespace", args.service);
        return Err(Failure::usage(what, "a list is written for one service: name it, as `isthmus services` does"));
    }
    let mut policy = Policy::connect(operator).await?;
    let recorded = flows::fetch(&mut policy, &target, args.last, false, SystemClock.now_ms()).await?;
    let suggested = suggest(&target, &recorded.flows);
    if suggested.rules.is_empty() {
        let what = format!("nobody with an identity was seen to call {} in this time", target.name());
        return Err(Failure::new(what, "look further back with --last, or wait until its callers have called it"));
    }
    let yaml = suggested.yaml(&target);
    let notes = [suggested.notes.clone(), recorded.gaps()].concat();
    match args.output.format() {
        Format::Json => println!(
            "{}",
            json!({ "ok": true, "yaml": yaml, "rules": suggested.json(), "notes": notes, "coverage": recorded.coverage_json() })
        ),
        Format::Table | Format::Yaml => {
            notes.iter().for_each(|note| println!("# {note}"));
            print!("{yaml}");
        }
    }
    Ok(())
}

/// What callers may do that a rule can name.
type To = (u16, BTreeSet<String>, BTreeSet<String>);

pub(super) struct Suggested {
    /// What is allowed, and to whom.
    rules: BTreeMap<To, BTreeMap<String, Seen>>,
    notes: Vec<String>,
}

#[derive(Default, Clone)]
struct Seen {
    count: u64,
    last: i64,
}

pub(super) fn suggest(target: &Target, records: &[wire::RecordedFlow]) -> Suggested {
    // caller → port → path → methods
    let mut callers: BTreeMap<String, BTreeMap<u16, BTreeMap<String, BTreeSet<String>>>> = BTreeMap::new();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut notes = BTreeSet::new();
    for flow in records.iter().filter_map(|record| record.flow.as_ref()) {
        // What was refused is what somebody wanted to be refused.
        if flow.verdict() == Verdict::Refused {
            continue;
        }
        let Some(identity) = nameable(flow, &mut notes) else { continue };
        let at = seen.entry(identity.clone()).or_default();
        at.count += flow.count;
        at.last = at.last.max(flow.last_seen_unix_ms);
        let port = u16::try_from(flow.port).unwrap_or(0);
        let paths = callers.entry(identity).or_default().entry(port).or_default();
        let methods = paths.entry(flow.path.clone()).or_default();
        if !flow.method.is_empty() {
            methods.insert(flow.method.clone());
        }
    }
    let mut rules: BTreeMap<To, BTreeMap<String, Seen>> = BTreeMap::new();
    for (identity, ports) in callers {
        let counted = seen.get(&identity).cloned().unwrap_or_default();
        if counted.count == 1 {
            let name = short(&identity, &target.namespace);
            notes.insert(format!("{name} was seen once, at {}: is it meant to be a caller?", when(counted.last)));
        }
        for (port, paths) in ports {
            let mut by_methods: BTreeMap<BTreeSet<String>, BTreeSet<String>> = BTreeMap::new();
            for (path, methods) in paths {
                by_methods.entry(methods).or_default().insert(path);
            }
            for (methods, paths) in by_methods {
                rules.entry((port, methods, paths)).or_default().insert(identity.clone(), counted.clone());
            }
        }
    }
    Suggested { rules, notes: notes.into_iter().collect() }
}

/// The caller's identity, if what it does can be named without a wildcard.
fn nameable(flow: &Flow, notes: &mut BTreeSet<String>) -> Option<String> {
    if flow.transport() != Transport::Mesh || flow.identity.is_empty() {
        let way = flows::transport(flow);
        notes.insert(format!(
            "{} comes by {way} and has no identity: it is not in the list; give it a sidecar, or a rule by its CIDR",
            flows::caller(flow)
        ));
        return None;
    }
    if !flow.method.is_empty() && !flow.path.starts_with('/') {
        notes.insert(format!(
            "{} {} requests to paths that are recorded as `{}`: they are not in the list",
            flows::caller(flow),
            flow.method,
            flow.path
        ));
        return None;
    }
    if flow.method == "other" {
        notes.insert(format!(
            "{} uses methods that were too many to record: they are not in the list",
            flows::caller(flow)
        ));
        return None;
    }
    Some(flow.identity.clone())
}

impl Suggested {
    fn yaml(&self, target: &Target) -> String {
        let Target { namespace, service } = target;
        let mut yaml = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\n\
             metadata: {{ namespace: {namespace}, name: {service}-suggested }}\n\
             spec:\n  services: [{service}]\n  mode: Audit\n  allow:\n"
        );
        for ((port, methods, paths), callers) in &self.rules {
            let once: Vec<_> =
                callers.iter().filter(|(_, seen)| seen.count == 1).map(|(id, _)| short(id, namespace)).collect();
            if !once.is_empty() {
                let _ = writeln!(yaml, "    # seen once: {}", once.join(", "));
            }
            let _ = writeln!(yaml, "    - from: {{ identities: [{}] }}", list(callers.keys()));
            let mut to = format!("ports: [{port}]");
            if !methods.is_empty() {
                let _ = write!(to, ", methods: [{}], paths: [{}]", list(methods.iter()), list(paths.iter()));
            }
            let _ = writeln!(yaml, "      to: {{ {to} }}");
        }
        yaml
    }

    fn json(&self) -> Value {
        let one = |((port, methods, paths), callers): (&To, &BTreeMap<String, Seen>)| {
            let caller = |(id, seen): (&String, &Seen)| json!({ "identity": id, "count": seen.count, "lastSeenUnixMs": seen.last });
            json!({ "port": port, "methods": methods, "paths": paths, "callers": callers.iter().map(caller).collect::<Vec<_>>() })
        };
        self.rules.iter().map(one).collect()
    }
}

fn short(identity: &str, own: &str) -> String {
    match SpiffeId::parse(identity) {
        Ok(id) if id.namespace() == own => id.service_account().to_owned(),
        Ok(id) => format!("{}/{}", id.namespace(), id.service_account()),
        Err(_) => identity.to_owned(),
    }
}

/// JSON strings are YAML scalars, whatever is in them.
fn list<'a>(texts: impl Iterator<Item = &'a String>) -> String {
    texts.map(|text| Value::from(text.as_str()).to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "suggest_test.rs"]
mod suggest_test;
