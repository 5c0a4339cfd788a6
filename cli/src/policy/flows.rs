//! Recorded decisions, and what they cover.

use std::time::Duration;

use isthmus_certs::{SpiffeId, span_in_words};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::{Flow, Transport};
use isthmus_proxy::state::TlsVersion;
use isthmus_proxy::state::policy::Arrived;
use serde_json::{Value, json};

use super::judge::{Asked, AskedHttp};
use super::target::Target;
use super::views::Callee;
use crate::connect::{self, Policy};
use crate::failure::Failure;
use crate::output::when;

/// What was recorded.
pub(crate) struct Recorded {
    pub(crate) flows: Vec<wire::RecordedFlow>,
    pub(crate) coverage: wire::Coverage,
    pub(crate) last: Duration,
}

pub(crate) async fn fetch(
    policy: &mut Policy,
    target: &Target,
    last: Duration,
    departures: bool,
    now_ms: i64,
) -> Result<Recorded, Failure> {
    let since = now_ms.saturating_sub(i64::try_from(last.as_millis()).unwrap_or(i64::MAX));
    let request = wire::ListFlowsRequest {
        namespace: target.namespace.clone(),
        service: target.service.clone(),
        since_unix_ms: since.max(0),
        plain_only: false,
        departures,
    };
    let mut stream = policy.call(async |client| client.list_flows(request).await).await?;
    let mut recorded = Recorded { flows: Vec::new(), coverage: wire::Coverage::default(), last };
    while let Some(part) = stream.message().await.map_err(|status| connect::refused(&status))? {
        if let Some(coverage) = part.coverage {
            recorded.coverage = coverage;
        }
        recorded.flows.extend(part.flows);
    }
    Ok(recorded)
}

impl Recorded {
    /// What an answer from these records rests on, and what it does not: one line each.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let c = &self.coverage;
        let mut lines = Vec::new();
        let wanted = i64::try_from(self.last.as_millis()).unwrap_or(i64::MAX);
        match c.oldest_unix_ms {
            0 => lines.push("nothing has been recorded yet".to_owned()),
            oldest if oldest > c.now_unix_ms.saturating_sub(wanted) => {
                let span = span_in_words(u64::try_from(c.now_unix_ms - oldest).unwrap_or(0));
                lines.push(format!("recorded since {} ({span}), and not for all of the time asked for", when(oldest)));
            }
            _ => {}
        }
        lines.push("every decision is counted, none is sampled; ids in paths, headers and, unless a rule asks for it, the host are not kept".to_owned());
        if c.dropped > 0 {
            lines.push(format!("{} decisions are in no record: there were too many different ones", c.dropped));
        }
        if c.evicted > 0 {
            lines.push(format!("{} records were given up for room (MeshConfig spec.flows)", c.evicted));
        }
        if c.truncated {
            lines.push("more matched than is looked at: name a service".to_owned());
        }
        if !c.silent.is_empty() {
            lines.push(format!("no reports in this time from: {}", c.silent.join(", ")));
        }
        lines
    }

    pub(crate) fn coverage_json(&self) -> Value {
        let c = &self.coverage;
        json!({
            "nowUnixMs": c.now_unix_ms,
            "windowSeconds": self.last.as_secs(),
            "oldestUnixMs": c.oldest_unix_ms,
            "sampling": 1.0,
            "dropped": c.dropped,
            "evicted": c.evicted,
            "truncated": c.truncated,
            "silent": c.silent,
        })
    }
}

/// The flow as traffic for the engine, at a callee as it is, or would be.
pub(crate) fn asked(flow: &Flow, callee: &Callee, now_ms: i64) -> Asked {
    let port = u16::try_from(flow.port).unwrap_or(0);
    let arrived = match flow.transport() {
        Transport::Mesh => Arrived::Mesh,
        Transport::Tls => Arrived::AppTls { version: tls_version(&flow.tls_version), declared: callee.is_tls(port) },
        Transport::Plaintext | Transport::Unspecified => Arrived::Plain,
    };
    let known = |text: &str| (!text.is_empty() && text != "other").then(|| text.to_owned());
    let http = (!flow.method.is_empty()).then(|| AskedHttp {
        method: known(&flow.method),
        path: Some(flow.path.clone()),
        host: known(&flow.host),
        headers: None,
    });
    Asked { peer: SpiffeId::parse(&flow.identity).ok(), ip: flow.address.parse().ok(), port, arrived, http, now_ms }
}

pub(crate) fn tls_version(text: &str) -> Option<TlsVersion> {
    match text {
        "1.0" => Some(TlsVersion::V1_0),
        "1.1" => Some(TlsVersion::V1_1),
        "1.2" => Some(TlsVersion::V1_2),
        "1.3" => Some(TlsVersion::V1_3),
        _ => None,
    }
}

/// `shop/web`, or the address of somebody without identity.
pub(crate) fn caller(flow: &Flow) -> String {
    match SpiffeId::parse(&flow.identity) {
        Ok(id) => format!("{}/{}", id.namespace(), id.service_account()),
        Err(_) if flow.address.is_empty() => "many addresses".to_owned(),
        Err(_) => flow.address.clone(),
    }
}

/// `shop/orders:8080`, the app's port.
pub(crate) fn callee(record: &wire::RecordedFlow) -> String {
    let port = record.flow.as_ref().map_or(0, |flow| flow.port);
    let name = record.services.first().unwrap_or(&record.workload);
    format!("{name}:{port}")
}

/// `GET /orders/{id}`; nothing for what is no HTTP.
pub(crate) fn request(flow: &Flow) -> String {
    format!("{} {}", flow.method, flow.path).trim().to_owned()
}

pub(crate) fn transport(flow: &Flow) -> String {
    match flow.transport() {
        Transport::Mesh => "mesh".to_owned(),
        Transport::Tls if flow.tls_version.is_empty() => "TLS".to_owned(),
        Transport::Tls => format!("TLS {}", flow.tls_version),
        Transport::Plaintext | Transport::Unspecified => "plaintext".to_owned(),
    }
}
