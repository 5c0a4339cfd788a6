//! Who speaks for a workload: the bearer of its identity, whose certificate nobody has revoked. Asked with each message that
//! a proxy sends about itself, since either may change while its connection is open.

use crate::ledger::Ledger;
use isthmus_certs::PeerIdentity;
use tonic::Status;

/// Refuses unless `peer` speaks for `workload` (`<namespace>/<name>`) now.
pub(crate) fn speaks_for(ledger: &Ledger, peer: &PeerIdentity, workload: &str) -> Result<(), Status> {
    if ledger.trust().revocations.cover(peer) {
        return Err(Status::permission_denied(format!("the certificate of {} was revoked", peer.id)));
    }
    if ledger.world().index.identity_of(workload) != Some(&peer.id) {
        let reason = format!("{} is not the identity of Workload {workload}", peer.id);
        return Err(Status::permission_denied(reason));
    }
    Ok(())
}
