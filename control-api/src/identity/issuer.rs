//! The one place where a certificate comes into being: signed, written to the audit log, and only then given out.

use super::register::Register;
use crate::audit::chain::hex;
use crate::audit::{AuditError, AuditLog, Event};
use crate::authority::Authorities;
use isthmus_certs::{CaError, CertificateAuthority, Issued, PublicKeyInfo, RootFingerprint, SpiffeId};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Signs and logs.
#[derive(Debug)]
pub struct Issuer {
    authorities: Arc<Authorities>,
    audit: Arc<AuditLog>,
    register: Register,
}

impl Issuer {
    /// Reads from the log which certificates are alive.
    pub fn new(authorities: Arc<Authorities>, audit: Arc<AuditLog>) -> Result<Self, AuditError> {
        let register = Register::default();
        register.read(&audit)?;
        Ok(Issuer { authorities, audit, register })
    }

    pub fn register(&self) -> &Register {
        &self.register
    }

    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    pub fn audit(&self) -> &Arc<AuditLog> {
        &self.audit
    }

    /// Issues for `id`. `event` says what this is and by which proof; the rest of the line is filled in here.
    pub fn issue(
        &self,
        key: &PublicKeyInfo,
        id: &SpiffeId,
        lifetime: Duration,
        event: Event,
    ) -> Result<Issued, IssueError> {
        self.issue_named(key, id, &[], lifetime, event)
    }

    /// The same, with DNS names beside the identity.
    pub fn issue_named(
        &self,
        key: &PublicKeyInfo,
        id: &SpiffeId,
        names: &[String],
        lifetime: Duration,
        event: Event,
    ) -> Result<Issued, IssueError> {
        self.sign(&self.authorities.active(), key, (id, names), lifetime, event)
    }

    /// The same from a CA that is named.
    pub fn issue_from(
        &self,
        authority: &CertificateAuthority,
        key: &PublicKeyInfo,
        id: &SpiffeId,
        lifetime: Duration,
        event: Event,
    ) -> Result<Issued, IssueError> {
        self.sign(authority, key, (id, &[]), lifetime, event)
    }

    fn sign(
        &self,
        authority: &CertificateAuthority,
        key: &PublicKeyInfo,
        (id, names): (&SpiffeId, &[String]),
        lifetime: Duration,
        event: Event,
    ) -> Result<Issued, IssueError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let issued = authority.issue(key, id, lifetime, &names)?;
        let event = Event {
            who: id.to_string(),
            serial: issued.serial.to_string(),
            not_after_unix_s: issued.not_after.as_secs(),
            root: RootFingerprint::of(authority.root()).to_string(),
            issuer: issued.chain.get(1).map(|ca| RootFingerprint::of(ca).to_string()).unwrap_or_default(),
            key: hex(&key_sha256(key)),
            ..event
        };
        self.audit.append(event.clone())?;
        self.register.note(self.audit.now_ms(), &event);
        Ok(issued)
    }
}

/// How a key is named where the key itself need not be.
pub fn key_sha256(key: &PublicKeyInfo) -> [u8; 32] {
    Sha256::digest(key.key().as_point()).into()
}
