//! What leaves the mesh, counted: each connection, and of plain HTTP each request, with the name that was seen and what
//! came of it. It is what `isthmus policy replay` runs a new EgressPolicy on, and what `isthmus edges` shows of the outside.

use super::Outbound;
use crate::flows::{self, Observed, Way};
use crate::reason::Reason;
use crate::state::egress::{Leaving, Verdict, host_of};

/// One decision. `read`: the first bytes were looked at, so that what is not known of a name is known not to be there.
pub(super) fn count(
    outbound: &Outbound,
    leaving: &Leaving<'_>,
    verdict: &Verdict,
    (came_of_it, reason): (flows::Verdict, Option<Reason>),
    read: bool,
) {
    outbound.flows.record(&Observed {
        way: if read { Way::Out } else { Way::OutUnread },
        peer: None,
        ip: leaving.to.ip().to_canonical(),
        port: leaving.to.port(),
        arrived: leaving.arrived,
        method: None,
        path: None,
        host: leaving.host,
        verdict: came_of_it,
        reason,
        policy: verdict.policy.as_deref(),
        rule: verdict.rule,
        audit: verdict.audit.as_ref().map(|(reason, policy)| (*reason, policy.as_deref())),
    });
}

/// The host of a request whose head is all here; nobody depends on it but a record.
pub(super) fn host_in(bytes: &[u8]) -> Option<String> {
    let line = bytes
        .split(|byte| *byte == b'\n')
        .skip(1)
        .find(|line| line.len() > 5 && line[..5].eq_ignore_ascii_case(b"host:"))?;
    host_of(std::str::from_utf8(&line[5..]).ok()?)
}
