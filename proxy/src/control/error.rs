//! What can go wrong with the control plane, whose fault it is, and what to do.

use std::path::PathBuf;

use isthmus_certs::{IdentityError, KeyError, PeerError, TrustDomain};
use tonic::{Code, Status};

/// An error of this module. The text says what to check.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "this proxy has no identity and no join token: run `isthmus token create` and give the line to it by file, stdin or environment"
    )]
    NotEnrolled,
    #[error("no address of a control plane: set controlPlane.address, or give a join token")]
    NoAddress,
    #[error(
        "the state directory belongs to trust domain `{held}`, the join token to `{token}`: empty the directory to move this workload"
    )]
    OtherTrustDomain { held: TrustDomain, token: TrustDomain },
    #[error("our certificate of {path} has expired: create a new join token with `isthmus token create`")]
    Expired { path: PathBuf },
    #[error("{path}: {reason}")]
    StateDir { path: PathBuf, reason: String },
    #[error("control plane {address}: {source}")]
    Unreachable { address: String, source: tonic::transport::Error },
    #[error("control plane {address}: {peer}: {advice}")]
    Peer { address: String, peer: PeerError, advice: &'static str },
    #[error("the join token was refused: {0}")]
    TokenRefused(String),
    #[error("the proof of who this is was refused: {0}")]
    ProofRefused(String),
    #[error("cannot prove who this is: {0}")]
    Proof(String),
    #[error("the control plane answered {:?}: {}", .0.code(), .0.message())]
    Refused(Status),
    #[error("the control plane did not answer within {0} s")]
    Timeout(u64),
    #[error("{0}")]
    ClockSkew(String),
    #[error("the control plane's answer cannot be used: {0}")]
    BadAnswer(String),
    #[error("the control plane's certificate for us cannot be used: {0}")]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the stream ended")]
    StreamEnded,
}

impl ControlError {
    /// A newer stream of this workload took over.
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::Aborted)
    }

    /// Whether trying again can help without anybody changing anything.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotEnrolled
            | Self::NoAddress
            | Self::OtherTrustDomain { .. }
            | Self::Expired { .. }
            | Self::StateDir { .. }
            | Self::TokenRefused(_)
            | Self::Key(_) => true,
            // A token is rotated, a clock is set, a Workload is applied: all of that mends it.
            Self::ProofRefused(_) | Self::Proof(_) => false,
            Self::Refused(status) => {
                matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented)
            }
            // A wrong clock can be set right; another root cannot.
            Self::Peer { peer, .. } => !is_about_dates(*peer),
            Self::Unreachable { .. }
            | Self::Timeout(_)
            | Self::ClockSkew(_)
            | Self::BadAnswer(_)
            | Self::Identity(_)
            | Self::StreamEnded => false,
        }
    }
}

/// By one of the two clocks a certificate does not hold now.
fn is_about_dates(peer: PeerError) -> bool {
    matches!(
        peer,
        PeerError::Expired
            | PeerError::NotYetValid
            | PeerError::OwnDates
            | PeerError::DatesRefusedByPeer
            | PeerError::PeerWithoutCertificate
    )
}

/// What to check when a control plane's certificate is not taken.
pub(super) fn advice(peer: PeerError) -> &'static str {
    match peer {
        PeerError::RevokedByPeer => "nothing else brings it back",
        PeerError::RefusedByPeer => "the control plane's log says why it does not take our certificate",
        PeerError::OwnDates => {
            "if this machine's clock is right, join again with a new token: a certificate that has ended proves nothing"
        }
        _ if is_about_dates(peer) => "compare this machine's clock with the control plane's",
        PeerError::UntrustedRoot => {
            "it has another root than our join token or trust bundle names; nothing was sent to it. Check the address"
        }
        _ => "it is not the control plane of our trust domain; nothing was sent to it. Check the address",
    }
}
