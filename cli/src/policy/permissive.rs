//! May Permissive end? For each port that takes plaintext: who of those that were seen lives by it.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::model::Transport;
use isthmus_proxy::state::policy::{Arrived, check_required};
use serde_json::{Value, json};

use super::flows::{self, Recorded};
use super::views::Views;
use crate::output::when;

/// Callers that one line names.
const NAMED: usize = 10;

/// One port of a service, over all workloads behind it.
#[derive(Debug, Default)]
pub(super) struct Port {
    /// Whom `HttpsOnly` would refuse: how each comes, and when last.
    blocked: BTreeMap<(String, String), i64>,
    /// Callers with TLS of their own that `HttpsOnly` takes, and `MeshOnly` would not.
    own_tls: BTreeSet<String>,
    seen: u64,
    /// What keeps the answer from being one.
    gaps: BTreeSet<String>,
}

/// The ports that are Permissive, by name.
pub(super) fn ports(views: &Views, recorded: &Recorded, now_ms: i64) -> BTreeMap<String, Port> {
    let mut ports: BTreeMap<String, Port> = BTreeMap::new();
    let c = &recorded.coverage;
    for callee in &views.callees {
        for port in callee.inbound.ports().filter(|port| port.policy.transport == Transport::Permissive) {
            let of = port.services.first().map_or_else(|| callee.workload.clone(), ToString::to_string);
            let gaps = &mut ports.entry(format!("{of}:{}", port.port)).or_default().gaps;
            if c.silent.contains(&callee.workload) {
                gaps.insert(format!("{} has reported nothing in this time", callee.workload));
            }
        }
    }
    for record in &recorded.flows {
        let (Some(flow), Some(callee)) = (&record.flow, views.callee(&record.workload)) else { continue };
        let asked = flows::asked(flow, callee, now_ms);
        let policy = &callee.port(asked.port).policy;
        if policy.transport != Transport::Permissive {
            continue;
        }
        let port = ports.entry(flows::callee(record)).or_default();
        port.seen += flow.count;
        if check_required(Transport::HttpsOnly, policy.min_tls_version, asked.arrived).is_err() {
            let last = port.blocked.entry((flows::caller(flow), flows::transport(flow))).or_default();
            *last = flow.last_seen_unix_ms.max(*last);
        } else if matches!(asked.arrived, Arrived::AppTls { .. }) {
            port.own_tls.insert(flows::caller(flow));
        }
    }
    for port in ports.values_mut() {
        if port.seen == 0 {
            port.gaps.insert("nobody was seen at all".to_owned());
        }
        if c.dropped > 0 {
            port.gaps.insert(format!("{} decisions are in no record", c.dropped));
        }
        if c.truncated {
            port.gaps.insert("more is recorded than was looked at".to_owned());
        }
    }
    ports
}

impl Port {
    /// Whether `HttpsOnly` would refuse nobody who was seen; none: it cannot be told.
    fn can_end(&self) -> Option<bool> {
        match (self.blocked.is_empty(), self.gaps.is_empty()) {
            (false, _) => Some(false),
            (true, true) => Some(true),
            (true, false) => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.can_end() {
            Some(false) => {
                let one = |((caller, way), last): (&(String, String), &i64)| {
                    format!("{caller} ({way}, last {})", when(*last))
                };
                let mut named: Vec<String> = self.blocked.iter().take(NAMED).map(one).collect();
                let more = self.blocked.len().saturating_sub(NAMED);
                named.extend((more > 0).then(|| format!("and {more} more")));
                format!("{name} is Permissive, and still needed by {}", named.join(", "))
            }
            Some(true) => {
                let also = match self.own_tls.len() {
                    0 => String::new(),
                    _ => {
                        let who: Vec<_> = self.own_tls.iter().take(NAMED).cloned().collect();
                        format!("; MeshOnly would refuse the TLS of {}", who.join(", "))
                    }
                };
                format!(
                    "{name} is Permissive, and needed by nobody seen: `transport: HttpsOnly` would refuse none of them{also}"
                )
            }
            None => {
                let why = self.gaps.iter().cloned().collect::<Vec<_>>().join("; ");
                format!("{name} is Permissive, and whether it is needed cannot be told: {why}")
            }
        }
    }

    pub(super) fn json(&self, name: &str) -> Value {
        let one = |((caller, way), last): (&(String, String), &i64)| json!({ "caller": caller, "transport": way, "lastSeenUnixMs": last });
        json!({
            "port": name, "canEnd": self.can_end(), "seen": self.seen,
            "neededBy": self.blocked.iter().map(one).collect::<Vec<_>>(),
            "ownTls": self.own_tls, "gaps": self.gaps,
        })
    }
}
