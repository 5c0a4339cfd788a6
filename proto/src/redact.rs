//! Debug for the messages that carry secrets: the generated one would print them.

use std::fmt;

use crate::admin::v1::{CreateAccessTokenResponse, CreateJoinTokenResponse, RedeemRequest};
use crate::identity::v1::{EnrollRequest, KubernetesProof, enroll_request::Proof};

impl fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match &self.proof {
            Some(Proof::JoinToken(_)) => "JoinToken([redacted])",
            Some(Proof::Certificate(_)) => "Certificate",
            Some(Proof::Kubernetes(_)) => "Kubernetes([redacted])",
            Some(Proof::Azure(_)) => "Azure",
            None => "none",
        };
        f.debug_struct("EnrollRequest")
            .field("proof", &proof)
            .field("csr_der", &format_args!("{} bytes", self.csr_der.len()))
            .field("client_time_unix_ms", &self.client_time_unix_ms)
            .finish()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::JoinToken(_) => f.write_str("JoinToken([redacted])"),
            Proof::Certificate(proof) => f.debug_tuple("Certificate").field(proof).finish(),
            Proof::Kubernetes(proof) => f.debug_tuple("Kubernetes").field(proof).finish(),
            Proof::Azure(proof) => f.debug_tuple("Azure").field(&proof.document.len()).finish(),
        }
    }
}

impl fmt::Debug for KubernetesProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesProof").field("cluster", &self.cluster).field("token", &"[redacted]").finish()
    }
}

impl fmt::Debug for CreateAccessTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CreateAccessTokenResponse");
        debug.field("token", &"[redacted]").field("created", &self.created).finish()
    }
}

impl fmt::Debug for RedeemRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedeemRequest").field("secret", &"[redacted]").finish_non_exhaustive()
    }
}

impl fmt::Debug for CreateJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJoinTokenResponse")
            .field("token", &"[redacted]")
            .field("id", &self.id)
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_unix_ms", &self.expires_unix_ms)
            .finish()
    }
}
