//! SPIFFE identities, certificates, trust bundles, verifiers and rotation timing. No network IO.
//!
//! In the order in which a workload meets it: [`token`] (what it is given) · [`csr`] (what it asks with) · [`ca`] (who
//! answers, with keys in a [`vault`]) · [`identity`] and [`store`] (what it holds) · [`tls`] (how it is used, with [`verify`] and [`leaf`]
//! deciding who a peer is and [`peer_error`] saying why not) · [`rotation`] (when to ask again).
//!
//! What it refuses: every identity that is not `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`, every
//! certificate a second past its end, every TLS version but 1.3.

pub mod bundle;
pub mod ca;
mod ca_signer;
pub mod clock;
pub mod csr;
mod der;
#[cfg(test)]
mod federation_test;
pub mod foreign;
mod hex;
pub mod id;
pub mod identity;
pub mod key;
pub mod leaf;
#[cfg(test)]
#[path = "mesh_test.rs"]
mod mesh_test;
pub mod peer_error;
pub mod pem;
pub mod private_file;
pub mod profile;
pub mod revocation;
pub mod rotation;
pub mod signed_document;
pub mod spiffe_bundle;
pub mod statement;
pub mod store;
#[cfg(test)]
mod svid_test;
mod template;
pub mod tls;
pub mod token;
pub mod vault;
pub mod verify;

pub use bundle::{BundleError, Federation, RootFingerprint, TrustBundle};
pub use ca::{CaError, CertificateAuthority, Issued};
pub use clock::{Clock, ManualClock, SystemClock, skew_in_words, span_in_words};
pub use csr::{CsrError, PublicKeyInfo};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use identity::{IdentityError, WorkloadIdentity};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use leaf::{PeerIdentity, Serial, peer_identity};
pub use peer_error::PeerError;
pub use profile::{CryptoProfile, Negotiated};
pub use revocation::{Proof as RevocationProof, Revocations};
pub use store::{IdentityStore, Subscription};
pub use tls::{ClientAuth, ExpectedPeer, ServerConfigs, provider};
pub use token::{JoinToken, SecretHash, TokenError};

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}
