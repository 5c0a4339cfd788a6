//! Join tokens: what a new workload is given, and all it needs for its first contact.
//!
//! `isthmus1.` and the base64url (RFC 4648 §5, unpadded) of five lines: control plane address, trust domain, root
//! fingerprint, token id, secret. The root's fingerprint is what makes the first contact safe: a control plane with
//! another root is refused before the secret leaves.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::bundle::RootFingerprint;
use crate::id::TrustDomain;

const PREFIX: &str = "isthmus1.";
/// Five bounded fields, times 4/3.
const MAX_TOKEN: usize = 1024;
/// RFC 1035: a name has at most 253 characters; with brackets and port it stays below this.
const MAX_ADDRESS: usize = 300;
/// The id is public and names the token in lists and logs: 8 random bytes, hex.
const ID_DIGITS: usize = 16;
/// 32 random bytes in base64url.
const SECRET_CHARS: usize = 43;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a join token starts with `isthmus1.`: copy the whole line that `isthmus token create` printed")]
    Prefix,
    #[error("the join token is damaged: copy the whole line that `isthmus token create` printed")]
    Damaged,
    #[error("the join token's control plane address is not of the form host:port")]
    Address,
    #[error("the secret is not of the form <id>.<secret>")]
    Secret,
    #[error("the system's random source failed")]
    Random,
}

/// A join token. Its secret is wiped when dropped and never shown by Debug.
#[derive(Clone)]
pub struct JoinToken {
    /// `host:port` of the control plane's port for proxies.
    pub address: String,
    pub trust_domain: TrustDomain,
    pub root: RootFingerprint,
    /// 16 hex digits; not secret.
    pub id: String,
    secret: Zeroizing<String>,
}

impl JoinToken {
    /// A new token with a random id and a random secret of 256 bits.
    pub fn generate(address: &str, trust_domain: &TrustDomain, root: RootFingerprint) -> Result<Self, TokenError> {
        check_address(address)?;
        let mut id = [0; ID_DIGITS / 2];
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut id).map_err(|_| TokenError::Random)?;
        aws_lc_rs::rand::fill(secret.as_mut()).map_err(|_| TokenError::Random)?;
        Ok(Self {
            address: address.to_owned(),
            trust_domain: trust_domain.clone(),
            root,
            id: crate::hex::encode(&id),
            secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref())),
        })
    }

    /// Reads a token; surrounding white space, as files have it, is ignored.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() > MAX_TOKEN {
            return Err(TokenError::Damaged);
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?);
        let lines = std::str::from_utf8(&bytes).map_err(|_| TokenError::Damaged)?;
        let mut lines = lines.split('\n');
        let (Some(address), Some(trust_domain), Some(root), Some(id), Some(secret), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(TokenError::Damaged);
        };
        check_address(address)?;
        if !is_id(id) || !is_secret(secret) {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            address: address.to_owned(),
            trust_domain: TrustDomain::parse(trust_domain).map_err(|_| TokenError::Damaged)?,
            root: RootFingerprint::parse(root).map_err(|_| TokenError::Damaged)?,
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// The one line to hand over. A secret: give it by file, stdin or environment, never as an argument.
    pub fn format(&self) -> Zeroizing<String> {
        let Self { address, trust_domain, root, id, secret } = self;
        let lines = Zeroizing::new(format!("{address}\n{trust_domain}\n{root}\n{id}\n{}", secret.as_str()));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + lines.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(lines.as_bytes(), &mut text);
        text
    }

    /// What goes over the wire in `EnrollRequest.join_token`: `<id>.<secret>`.
    pub fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}.{}", self.id, self.secret.as_str()))
    }

    /// What the control plane keeps: enough to recognise the secret, useless to whoever reads the store.
    pub fn secret_hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("address", &self.address)
            .field("trust_domain", &self.trust_domain)
            .field("root", &self.root)
            .field("id", &self.id)
            .field("secret", &"[redacted]")
            .finish()
    }
}

/// Splits `<id>.<secret>` as it came over the wire into the id to look up and the hash to compare.
pub fn split_secret(wire: &str) -> Result<(&str, SecretHash), TokenError> {
    match wire.split_once('.') {
        Some((id, secret)) if is_id(id) && is_secret(secret) => Ok((id, SecretHash::of(secret))),
        _ => Err(TokenError::Secret),
    }
}

/// SHA-256 of a secret. Fast is fine here: 256 random bits cannot be guessed, unlike a password.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        Self(bytes)
    }

    /// For a stored hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the same time wherever the two differ.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash([redacted])")
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_secret(text: &str) -> bool {
    text.len() == SECRET_CHARS && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// `host:port`, `1.2.3.4:port` or `[::1]:port`; not port 0.
fn check_address(text: &str) -> Result<(), TokenError> {
    let (host, port) = text.rsplit_once(':').ok_or(TokenError::Address)?;
    let port_ok = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0);
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => rustls_pki_types::ServerName::try_from(host).is_ok() && !host.contains(':'),
    };
    if port_ok && host_ok && text.len() <= MAX_ADDRESS { Ok(()) } else { Err(TokenError::Address) }
}

#[cfg(test)]
#[path = "token_test.rs"]
mod token_test;
