//! CA keys in files, encrypted at rest: Argon2id over a passphrase or a key file, then AES-256-GCM.
//!
//! What is sealed is bound to the certificate that stands beside it, so that keys cannot be exchanged between files. The
//! passphrase comes from a file (systemd-creds, a mounted secret), never from argv or the environment. Keys that were
//! kept plain before are taken, and sealed at once.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use isthmus_certs::vault::{CaKey, CaSigner, Kept, KeyVault, PLAIN, VaultError};
use isthmus_certs::{PrivateKey, PublicKey};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

pub(super) const SEALED: &str = "ISTHMUS SEALED KEY";

const FORMAT: u8 = 1;
const SALT: usize = 16;
/// Format, memory, passes, lanes, salt, nonce.
const HEAD: usize = 1 + 3 * 4 + SALT + NONCE_LEN;
/// RFC 9106 §4, second recommendation: 64 MiB, 3 passes. Half a second, twice per start.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
/// What a file may ask of us at most.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_SECRET: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

/// Seals with one secret.
#[derive(Clone)]
pub(crate) struct SealedVault(Arc<Secret>);

struct Secret {
    passphrase: Zeroizing<Vec<u8>>,
    cost: Cost,
    /// The last derived key: opening and saving go in pairs.
    derived: Mutex<Option<Derived>>,
}

#[derive(Clone)]
struct Derived {
    salt: [u8; SALT],
    cost: Cost,
    key: Zeroizing<[u8; 32]>,
}

struct SealedKey {
    vault: SealedVault,
    key: PrivateKey,
}

impl SealedVault {
    /// Takes the whole file but for white space at its end. Refused where others could read it, or where it says little.
    pub(crate) fn from_file(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!("{}: mode {mode:04o} lets others read the passphrase; chmod 600", path.display()));
        }
        let mut secret = Zeroizing::new(Vec::with_capacity(4096));
        file.take(MAX_SECRET).read_to_end(&mut secret).map_err(failed)?;
        while secret.last().is_some_and(u8::is_ascii_whitespace) {
            secret.pop();
        }
        if secret.len() < 12 {
            return Err(format!("{}: a passphrase of fewer than 12 bytes protects nothing", path.display()));
        }
        Ok(Self::new(secret, COST))
    }

    pub(super) fn new(passphrase: Zeroizing<Vec<u8>>, cost: Cost) -> Self {
        SealedVault(Arc::new(Secret { passphrase, cost, derived: Mutex::default() }))
    }

    #[cfg(test)]
    pub(crate) fn cheap(passphrase: &str) -> Self {
        let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
        Self::new(Zeroizing::new(passphrase.as_bytes().to_vec()), cost)
    }

    fn derive(&self, salt: [u8; SALT], cost: Cost) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let mut derived = self.0.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = derived.as_ref().filter(|known| known.salt == salt && known.cost == cost) {
            return Ok(known.key.clone());
        }
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| VaultError::Sealed)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&self.0.passphrase, &salt, key.as_mut())
            .map_err(|_| VaultError::Sealed)?;
        *derived = Some(Derived { salt, cost, key: key.clone() });
        Ok(key)
    }

    pub(crate) fn seal(&self, secret: &[u8], beside: Option<&CertificateDer<'_>>) -> Result<Vec<u8>, VaultError> {
        let random = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).map_err(|_| VaultError::Sealed);
        let salt = {
            let derived = self.0.derived.lock().unwrap_or_else(PoisonError::into_inner);
            derived.as_ref().filter(|known| known.cost == self.0.cost).map(|known| known.salt)
        };
        let (mut fresh, mut nonce) = ([0; SALT], [0; NONCE_LEN]);
        random(&mut fresh)?;
        random(&mut nonce)?;
        let (salt, cost) = (salt.unwrap_or(fresh), self.0.cost);
        let mut sealed = vec![FORMAT];
        [cost.memory_kib, cost.passes, cost.lanes].iter().for_each(|n| sealed.extend(n.to_be_bytes()));
        sealed.extend(salt);
        sealed.extend(nonce);
        let aad = bound(&sealed, beside);
        let mut body = Zeroizing::new(secret.to_vec());
        let key = self.derive(salt, cost)?;
        let tag = cipher(&key)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut body)
            .map_err(|_| VaultError::Sealed)?;
        sealed.extend(body.iter());
        sealed.extend(tag.as_ref());
        Ok(sealed)
    }

    pub(crate) fn unseal(
        &self,
        sealed: &[u8],
        beside: Option<&CertificateDer<'_>>,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (head, body) = sealed.split_at_checked(HEAD).ok_or(VaultError::Sealed)?;
        let number = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(VaultError::Sealed)
        };
        let cost = Cost { memory_kib: number(1)?, passes: number(5)?, lanes: number(9)? };
        if head[0] != FORMAT || cost.memory_kib > MAX_MEMORY_KIB || cost.passes > 64 || cost.lanes > 16 {
            return Err(VaultError::Sealed);
        }
        let salt = head[13..13 + SALT].try_into().map_err(|_| VaultError::Sealed)?;
        let nonce = head[13 + SALT..].try_into().map_err(|_| VaultError::Sealed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let key = self.derive(salt, cost)?;
        let opened = cipher(&key)?
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound(head, beside)), &mut body)
            .map_err(|_| VaultError::Sealed)?;
        Ok(Zeroizing::new(opened.to_vec()))
    }
}

/// Head and certificate are not secret, and may not be changed either.
fn bound(head: &[u8], beside: Option<&CertificateDer<'_>>) -> [u8; 32] {
    let certificate = beside.map(|der| der.as_ref()).unwrap_or_default();
    Sha256::new().chain_update(head).chain_update(certificate).finalize().into()
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, VaultError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| VaultError::Sealed)
}

impl KeyVault for SealedVault {
    fn generate(&self, _label: &str) -> Result<CaKey, VaultError> {
        Ok(CaKey::new(SealedKey { vault: self.clone(), key: PrivateKey::generate()? }))
    }

    fn open(&self, kept: &Kept, beside: Option<&CertificateDer<'_>>) -> Result<CaKey, VaultError> {
        let key = match kept.label.as_str() {
            SEALED => PrivateKey::from_pkcs8(&self.unseal(&kept.body, beside)?)?,
            PLAIN => PrivateKey::from_pkcs8(&kept.body)?,
            found => return Err(VaultError::OtherKind { found: found.to_owned(), wanted: SEALED }),
        };
        Ok(CaKey::new(SealedKey { vault: self.clone(), key }))
    }
}

impl CaSigner for SealedKey {
    fn public(&self) -> &PublicKey {
        self.key.public()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.key.sign_der(message).ok_or(VaultError::Key(isthmus_certs::KeyError::Generate))
    }

    fn kept_as(&self) -> &'static str {
        SEALED
    }

    fn keep(&self, beside: Option<&CertificateDer<'_>>) -> Result<Kept, VaultError> {
        let body = Zeroizing::new(self.vault.seal(&self.key.to_pkcs8()?, beside)?);
        Ok(Kept { label: SEALED.to_owned(), body })
    }
}

impl fmt::Debug for SealedVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedVault([redacted])")
    }
}
