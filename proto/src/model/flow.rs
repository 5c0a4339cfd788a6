//! Reports of decisions: read by the control plane, from proxies that may be newer than it, or hostile.

use std::net::IpAddr;

use isthmus_certs::SpiffeId;

use super::ModelError;
use super::error::{bounded, port, unknown_value};
use crate::flows::v1 as wire;

/// Of one report.
pub const MAX_FLOWS: usize = 5_000;
pub const MAX_REFUSALS: usize = 1_000;
/// A name, path or word, bytes.
const MAX_WORD: usize = 512;
/// A sentence, or a policy as YAML.
const MAX_SENTENCE: usize = 4_096;

/// What can be kept of a report, and how many decisions cannot.
#[derive(Debug, Default)]
pub struct Report {
    pub flows: Vec<wire::Flow>,
    pub departures: Vec<wire::Departure>,
    pub refusals: Vec<wire::Refusal>,
    /// Decisions in flows and departures that this build cannot read, or that are not as they must be.
    pub unreadable: u64,
}

impl Report {
    /// A flow that cannot be read does not spoil the others.
    pub fn read(request: &wire::ReportRequest) -> Result<Self, ModelError> {
        bounded("flows", &request.flows, MAX_FLOWS)?;
        bounded("departures", &request.departures, MAX_FLOWS)?;
        bounded("refusals", &request.refusals, MAX_REFUSALS)?;
        if request.sequence == 0 {
            return Err(ModelError::new("sequence", "missing: reports are counted from 1"));
        }
        let mut report = Report::default();
        for flow in &request.flows {
            match check_flow(flow) {
                Ok(()) => report.flows.push(flow.clone()),
                Err(_) => report.unreadable = report.unreadable.saturating_add(flow.count.max(1)),
            }
        }
        for departure in &request.departures {
            match check_departure(departure) {
                Ok(()) => report.departures.push(departure.clone()),
                Err(_) => report.unreadable = report.unreadable.saturating_add(departure.count.max(1)),
            }
        }
        report.refusals.extend(request.refusals.iter().filter(|refusal| check_refusal(refusal).is_ok()).cloned());
        Ok(report)
    }
}

fn check_flow(flow: &wire::Flow) -> Result<(), ModelError> {
    let words = [
        &flow.site,
        &flow.tls_version,
        &flow.method,
        &flow.path,
        &flow.host,
        &flow.reason,
        &flow.policy,
        &flow.audit_reason,
        &flow.audit_policy,
    ];
    check_words(&words)?;
    check_caller(&flow.identity, &flow.address, true)?;
    port("port", flow.port)?;
    known("transport", flow.transport, wire::Transport::try_from(flow.transport).is_ok())?;
    known("verdict", flow.verdict, wire::Verdict::try_from(flow.verdict).is_ok())?;
    check_count(flow.count, flow.first_seen_unix_ms, flow.last_seen_unix_ms)
}

fn check_departure(departure: &wire::Departure) -> Result<(), ModelError> {
    let d = departure;
    check_words(&[&d.host, &d.tls_version, &d.reason, &d.policy, &d.audit_reason, &d.audit_policy])?;
    check_caller("", &d.address, true)?;
    port("port", d.port)?;
    // Of what was not read nothing is known, and nothing may be claimed.
    match d.read {
        true => known("transport", d.transport, wire::Transport::try_from(d.transport).is_ok())?,
        false if d.transport == 0 && d.host.is_empty() && d.tls_version.is_empty() => {}
        false => return Err(ModelError::new("read", "nothing was read, and something is said of it")),
    }
    known("verdict", d.verdict, wire::Verdict::try_from(d.verdict).is_ok())?;
    check_count(d.count, d.first_seen_unix_ms, d.last_seen_unix_ms)
}

fn check_count(count: u64, first_ms: i64, last_ms: i64) -> Result<(), ModelError> {
    if count == 0 || first_ms < 0 || last_ms < first_ms {
        return Err(ModelError::new("count", "counts nothing, or ends before it begins"));
    }
    Ok(())
}

fn check_refusal(refusal: &wire::Refusal) -> Result<(), ModelError> {
    let r = refusal;
    check_words(&[&r.reason, &r.service, &r.method, &r.path, &r.policy, &r.destination])?;
    check_caller(&refusal.identity, &refusal.address, false)?;
    port("port", refusal.port)?;
    let id = &refusal.id;
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(ModelError::new("id", "not a decision's id"));
    }
    // A path of four bytes for each character, quoted, is the longest that a policy can hold.
    for (field, text) in [("because", &refusal.because), ("would_allow", &refusal.would_allow)] {
        if text.len() > MAX_SENTENCE {
            return Err(ModelError::new(field, format!("longer than {MAX_SENTENCE} bytes")));
        }
    }
    Ok(())
}

fn check_words(words: &[&String]) -> Result<(), ModelError> {
    match words.iter().any(|word| word.len() > MAX_WORD * 4) {
        true => Err(ModelError::new("", format!("a word is longer than {} bytes", MAX_WORD * 4))),
        false => Ok(()),
    }
}

fn check_caller(identity: &str, address: &str, may_lack_address: bool) -> Result<(), ModelError> {
    if !identity.is_empty() {
        SpiffeId::parse(identity).map_err(|e| ModelError::new("identity", e))?;
    }
    if !(may_lack_address && address.is_empty()) {
        address.parse::<IpAddr>().map_err(|e| ModelError::new("address", e))?;
    }
    Ok(())
}

/// 0 is "not said", which no report may be; what is not known is from a newer proxy.
fn known(field: &str, value: i32, is_known: bool) -> Result<(), ModelError> {
    if is_known && value != 0 { Ok(()) } else { Err(unknown_value(field, value)) }
}

#[cfg(test)]
#[path = "flow_test.rs"]
mod flow_test;
