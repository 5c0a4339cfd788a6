//! `/status`: what `isthmus status` shows of this proxy. Words and numbers, and no secret.

use std::collections::BTreeMap;

use isthmus_certs::{IdentityStore, span_in_words};
use serde_json::{Value, json};

use super::readiness::Readiness;
use crate::state::State;
use crate::state::standing::{Facts, Kept, Noted, Serving, Standing, end_ms};

/// What capture does.
pub(super) struct CaptureNow<'a> {
    pub(super) configured: &'a str,
    /// None: nothing is captured yet.
    pub(super) in_force: Option<&'a str>,
}

pub(super) fn page(
    standing: &Standing,
    readiness: &Readiness,
    identities: &IdentityStore,
    state: &State,
    capture: &CaptureNow<'_>,
) -> Value {
    let (facts, identity) = (standing.facts(), identities.current());
    let now_ms = identities.clock().now_ms();
    let ready = readiness.check();
    let mut warnings = facts.warnings(identity.as_deref(), now_ms);
    let bypasses = bypasses(state, now_ms);
    for (service, until_ms) in &bypasses {
        let left = span_in_words((until_ms - now_ms).unsigned_abs());
        warnings
            .push(format!("BYPASS {service}: refusals by policy are recorded and not carried out, for {left} more"));
    }
    let word = match (&ready, warnings.is_empty()) {
        (Err(_), _) => "not-ready",
        (Ok(()), true) => "ready",
        (Ok(()), false) => "warning",
    };
    let alone = facts.alone(identity.as_deref()).map(|alone| {
        let left_ms = (alone.until_ms - now_ms).max(0);
        let words = span_in_words(left_ms.unsigned_abs());
        json!({ "seconds": left_ms / 1_000, "words": words, "because": alone.because })
    });
    json!({
        "status": word,
        "because": ready.err().map(|(reason, why)| format!("{reason}: {why}")),
        "warnings": warnings,
        "version": env!("CARGO_PKG_VERSION"),
        "nowUnixMs": now_ms,
        "workload": facts.workload,
        "identity": identity.as_ref().map(|identity| identity.id.to_string()),
        "certificate": identity.as_ref().map(|identity| json!({
            "serial": identity.serial.to_string(),
            "notAfterUnixMs": end_ms(identity),
            "secondsLeft": ((end_ms(identity) - now_ms) / 1_000).max(0),
            "nextRenewalUnixMs": facts.next_renewal_ms,
            "renewalFailures": facts.renewal_failures,
            "renewalError": noted(facts.renewal_error.as_ref()),
        })),
        "controlPlane": {
            "address": facts.address,
            "connected": facts.connected,
            "sinceUnixMs": facts.since_ms,
            "build": facts.control_build,
            "lastError": noted(facts.last_error.as_ref()),
        },
        "withoutControlPlane": alone,
        "snapshot": snapshot(&facts, state),
        "kept": kept(&facts),
        "bypasses": bypasses.iter().map(|(service, until)| json!({ "service": service, "untilUnixMs": until })).collect::<Vec<_>>(),
        "capture": { "configured": capture.configured, "inForce": capture.in_force },
    })
}

/// What break-glass opens here, and until when.
fn bypasses(state: &State, now_ms: i64) -> BTreeMap<String, i64> {
    let mesh = state.snapshot();
    let mut open = BTreeMap::new();
    for port in mesh.inbound().ports() {
        let Some(until) = port.standing.bypass_until_ms.filter(|until| *until > now_ms) else { continue };
        for service in &port.services {
            open.insert(service.to_string(), until);
        }
    }
    open
}

fn noted(noted: Option<&Noted>) -> Value {
    noted.map_or(Value::Null, |noted| json!({ "atUnixMs": noted.at_ms, "what": noted.what }))
}

fn snapshot(facts: &Facts, state: &State) -> Value {
    let (from, signed_ms, until_ms) = match facts.serving {
        Serving::Nothing => ("nothing", None, None),
        Serving::Live => ("control-plane", None, None),
        Serving::LastGood { signed_ms, until_ms } => ("last-good", Some(signed_ms), Some(until_ms)),
        Serving::TooOld => ("too-old", None, None),
    };
    json!({ "version": state.snapshot().version, "from": from, "signedUnixMs": signed_ms, "untilUnixMs": until_ms })
}

fn kept(facts: &Facts) -> Value {
    let (version, error) = match &facts.kept {
        Kept::Nothing => (None, None),
        Kept::Version(version) => (Some(version), None),
        Kept::Failed(why) => (None, Some(why)),
    };
    json!({ "version": version, "error": error, "protection": facts.sealed, "refused": facts.last_good_refused })
}
