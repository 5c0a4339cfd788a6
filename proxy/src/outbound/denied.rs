//! A no to what would leave the mesh, as the operator gets it: counted, remembered under its id with the YAML that would
//! allow it, and said in the log as far as that is not flooded.

use super::Outbound;
use crate::flows::Record;
use crate::reason::Reason;
use crate::state::egress::{Leaving, Verdict, explain};
use crate::telemetry::Direction;

/// Returns the id that record, log and answer carry.
pub(super) fn say(
    outbound: &Outbound,
    reason: Reason,
    verdict: &Verdict,
    leaving: &Leaving<'_>,
    enforced: bool,
    detail: &str,
) -> String {
    let Outbound { needs, log, .. } = outbound;
    if enforced {
        needs.metrics.refused(reason, Direction::Outbound);
    } else {
        needs.metrics.would_refuse(reason, Direction::Outbound);
    }
    let audit = verdict.audit.as_ref().and_then(|(_, policy)| policy.as_deref());
    let policy = audit.or(verdict.policy.as_deref());
    let id = format!("{:016x}", rand::random::<u64>());
    if let Some(left_out) = log.may_say(reason) {
        tracing::info!(
            decision = id,
            reason = reason.word(),
            enforced,
            destination = %leaving.to,
            host = leaving.host,
            policy,
            rule = verdict.rule,
            left_out = (left_out > 0).then_some(left_out),
            "refused: {detail}",
        );
    }
    let mesh = needs.state.snapshot();
    let workload = mesh.inbound().workload.as_ref();
    let own = mesh.inbound().addresses().find(|ip| ip.is_ipv4() == leaving.to.is_ipv4());
    needs.decisions.record(Record {
        id: id.clone(),
        at_ms: needs.identity.clock().now_ms(),
        reason: reason.word(),
        enforced,
        because: format!(
            "to {}{}: {detail}",
            leaving.host.map(|host| format!("{host} at ")).unwrap_or_default(),
            leaving.to
        ),
        destination: Some(match leaving.host {
            Some(host) => format!("{host}:{} at {}", leaving.to.port(), leaving.to.ip()),
            None => leaving.to.to_string(),
        }),
        caller: needs.identity.current().map(|identity| identity.id.to_string()),
        caller_address: own.unwrap_or(leaving.to.ip()).to_string(),
        service: None,
        port: leaving.to.port(),
        method: None,
        path: None,
        policy: policy.map(str::to_owned),
        rule: verdict.rule,
        would_allow: workload
            .and_then(|workload| explain::yaml_that_would_allow(reason, leaving, workload.namespace())),
    });
    id
}
