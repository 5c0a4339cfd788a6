//! The smallest list of places outside of the mesh that fits what left it: names where one was seen, addresses where none
//! was. Nothing in it is wider than what was seen: no wildcard, no range, no port that was not used, and TLS only wherever
//! TLS was spoken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::{Departure, Transport, Verdict};
use serde_json::{Value, json};

use super::super::departures::place;
use super::super::flows;
use super::super::target::Target;
use super::super::views::Views;
use super::{Args, list};
use crate::connect::Policy;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, when};

/// Port, how it was carried, and the oldest TLS that was seen where that is below what holds anyway.
type How = (u16, Carried, Option<&'static str>);
type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carried {
    Tls,
    Plain,
    /// Nothing was read.
    Unknown,
}

pub(super) struct Suggested {
    rules: BTreeMap<How, Places>,
    notes: BTreeSet<String>,
}

#[derive(Default)]
struct Places {
    hosts: BTreeMap<String, Seen>,
    addresses: BTreeMap<String, Seen>,
}

#[derive(Default, Clone)]
struct Seen {
    count: u64,
    last: i64,
}

pub(super) async fn run(args: &Args, target: &Target, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let recorded = flows::fetch(&mut policy, target, args.last, true, SystemClock.now_ms()).await?;
    let views = Views::stored(&mut policy, &[], &target.namespace, &target.service).await?;
    let labels = if target.service.is_empty() { Labels::new() } else { common_labels(&views) };
    let mut suggested = suggest(&recorded.flows);
    if suggested.rules.is_empty() {
        let what = format!("nothing was seen to leave the mesh from {} in this time", target.name());
        return Err(Failure::new(what, "look further back with --last, or wait until its apps have gone there"));
    }
    if !target.service.is_empty() && labels.is_empty() {
        let note = "its workloads have no label in common: the policy is for their whole namespace";
        suggested.notes.insert(note.to_owned());
    }
    let yaml = suggested.yaml(target, &labels);
    let notes: Vec<String> = suggested.notes.iter().cloned().chain(recorded.gaps()).collect();
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

/// What all of them carry: the policy is to be theirs.
fn common_labels(views: &Views) -> Labels {
    let mut all = views.callees.iter().map(|callee| callee.labels.clone());
    let first = all.next().unwrap_or_default();
    all.fold(first, |common, labels| {
        common.into_iter().filter(|(name, value)| labels.get(name) == Some(value)).collect()
    })
}

pub(super) fn suggest(records: &[wire::RecordedFlow]) -> Suggested {
    let mut suggested = Suggested { rules: BTreeMap::new(), notes: BTreeSet::new() };
    for left in records.iter().filter_map(|record| record.departure.as_ref()) {
        // What was refused is what somebody wanted to be refused.
        if left.verdict() != Verdict::Refused {
            suggested.add(left);
        }
    }
    let once = suggested.rules.iter().flat_map(|((port, ..), places)| {
        let all = places.hosts.iter().chain(&places.addresses).filter(|(_, seen)| seen.count == 1);
        all.map(move |(name, seen)| format!("{name}:{port} was seen once, at {}: is it meant?", when(seen.last)))
    });
    suggested.notes.extend(once.collect::<Vec<_>>());
    suggested
}

impl Suggested {
    fn add(&mut self, left: &Departure) {
        let place = place(left);
        let carried = match left.transport() {
            Transport::Tls => Carried::Tls,
            Transport::Plaintext | Transport::Mesh => Carried::Plain,
            Transport::Unspecified => Carried::Unknown,
        };
        let old = match left.tls_version.as_str() {
            "1.0" => Some("1.0"),
            "1.1" => Some("1.1"),
            _ => None,
        };
        let Ok(port) = u16::try_from(left.port) else { return };
        let host = Some(left.host.as_str()).filter(|host| !host.is_empty());
        let (Some(name), known) =
            (host.or(Some(left.address.as_str())).filter(|name| !name.is_empty()), host.is_some())
        else {
            self.notes.insert(format!("{place}: too many to be told apart: they are not in the list"));
            return;
        };
        if name == "other" {
            self.notes.insert(format!("{place}: a name that was too long to be kept: it is not in the list"));
            return;
        }
        if carried == Carried::Unknown {
            let how = "nothing restricts it yet, so that its name and its TLS were not read";
            self.notes.insert(format!("{place}: {how}: apply this list as it is, in Audit, and suggest again"));
        } else if !known {
            self.notes.insert(format!("{place}: no name was shown (SNI or Host): it is listed by its address"));
        }
        if carried == Carried::Plain {
            self.notes.insert(format!("{place} is spoken to in plaintext"));
        }
        let places = self.rules.entry((port, carried, old)).or_default();
        let seen = if known { &mut places.hosts } else { &mut places.addresses }.entry(name.to_owned()).or_default();
        seen.count += left.count;
        seen.last = seen.last.max(left.last_seen_unix_ms);
    }

    fn yaml(&self, Target { namespace, service }: &Target, labels: &Labels) -> String {
        let name = if service.is_empty() { namespace } else { service };
        let mut yaml = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: EgressPolicy\n\
             metadata: {{ namespace: {namespace}, name: {name}-suggested }}\nspec:\n"
        );
        if !labels.is_empty() {
            let _ = writeln!(yaml, "  workloads: {{ matchLabels: {} }}", json!(labels));
        }
        yaml.push_str("  mode: Audit\n  allow:\n");
        for ((port, carried, old), places) in &self.rules {
            let address = |text: &String| format!("{text}/{}", if text.contains(':') { 128 } else { 32 });
            let addresses: BTreeMap<String, Seen> =
                places.addresses.iter().map(|(text, seen)| (address(text), seen.clone())).collect();
            for (field, named) in [("hosts", &places.hosts), ("cidrs", &addresses)] {
                if named.is_empty() {
                    continue;
                }
                let once: Vec<&str> =
                    named.iter().filter(|(_, seen)| seen.count == 1).map(|(name, _)| name.as_str()).collect();
                if !once.is_empty() {
                    let _ = writeln!(yaml, "    # seen once: {}", once.join(", "));
                }
                let mut rule = format!("{field}: [{}], ports: [{port}]", list(named.keys()));
                rule.push_str(match carried {
                    Carried::Tls => ", transport: HttpsOnly",
                    Carried::Plain => ", transport: Permissive",
                    Carried::Unknown => "",
                });
                if let Some(version) = old {
                    let _ = write!(rule, ", minTlsVersion: \"{version}\"");
                }
                let _ = writeln!(yaml, "    - {{ {rule} }}");
            }
        }
        yaml
    }

    fn json(&self) -> Value {
        let one = |((port, carried, old), places): (&How, &Places)| {
            let seen = |(name, seen): (&String, &Seen)| json!({ "name": name, "count": seen.count, "lastSeenUnixMs": seen.last });
            json!({
                "port": port,
                "transport": match carried { Carried::Tls => "TLS", Carried::Plain => "plaintext", Carried::Unknown => "not read" },
                "minTlsVersion": old,
                "hosts": places.hosts.iter().map(seen).collect::<Vec<_>>(),
                "addresses": places.addresses.iter().map(seen).collect::<Vec<_>>(),
            })
        };
        self.rules.iter().map(one).collect()
    }
}

#[cfg(test)]
#[path = "suggest_egress_test.rs"]
mod suggest_egress_test;
