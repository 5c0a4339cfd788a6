//! Where a CA's private keys live: one trait for files, tokens and network HSMs.
//!
//! A vault makes a key and finds it again by what is kept of it in the CA's file: the key itself (plain or sealed), or a
//! reference to it in a token that never gives it out. What the vault says is not believed: a public key that does not
//! fit the certificate beside it is refused, and so is a signature that does not verify.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::key::{KeyError, PrivateKey, PublicKey};

/// Keys of CAs, all of them ECDSA P-256.
pub trait KeyVault: Send + Sync + fmt::Debug {
    /// Makes a key; `label` names it for people who look into a token.
    fn generate(&self, label: &str) -> Result<CaKey, VaultError>;

    /// Finds a key again. `beside` is the certificate that stands in the same file.
    fn open(&self, kept: &Kept, beside: Option<&CertificateDer<'_>>) -> Result<CaKey, VaultError>;
}

/// A key in a vault.
pub trait CaSigner: Send + Sync {
    fn public(&self) -> &PublicKey;

    /// ECDSA with SHA-256 over `message`, in DER.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, VaultError>;

    /// The PEM label of what is kept; a file that holds another one is written anew.
    fn kept_as(&self) -> &'static str;

    /// What to write down, so that [`KeyVault::open`] finds it.
    fn keep(&self, beside: Option<&CertificateDer<'_>>) -> Result<Kept, VaultError>;
}

/// A section of a CA's file.
pub struct Kept {
    /// The PEM label.
    pub label: String,
    pub body: Zeroizing<Vec<u8>>,
}

/// Why a key cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(
        "the CA's key is kept as `{found}`, which these settings cannot open; they keep `{wanted}`: see `authority.keys` in control.yaml"
    )]
    OtherKind { found: String, wanted: &'static str },
    #[error("the CA's key cannot be opened: wrong passphrase, or the file was changed")]
    Sealed,
    #[error("{0}")]
    Token(String),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A CA's key, wherever it is. Cheap to clone.
#[derive(Clone)]
pub struct CaKey(Arc<dyn CaSigner>);

impl CaKey {
    pub fn new(signer: impl CaSigner + 'static) -> Self {
        Self(Arc::new(signer))
    }

    pub fn public(&self) -> &PublicKey {
        self.0.public()
    }

    pub fn kept_as(&self) -> &'static str {
        self.0.kept_as()
    }

    pub fn keep(&self, beside: Option<&CertificateDer<'_>>) -> Result<Kept, VaultError> {
        self.0.keep(beside)
    }

    /// Signs, and checks the signature: a token with another key, or a faulty one, is noticed here and not by peers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        let signature = self.0.sign(message)?;
        match self.public().verifies(message, &signature) {
            true => Ok(signature),
            false => Err(VaultError::Token("the token's signature does not fit the CA's certificate".to_owned())),
        }
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaKey([redacted], {:?})", self.public())
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({}, [redacted])", self.label)
    }
}

impl rcgen::PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.public().as_point()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Self::sign(self, message).map_err(|error| {
            // rcgen's error has no room for words.
            failure::remember(error.to_string());
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The last failure of a vault, on its way past rcgen to whoever asked for a signature.
pub(crate) mod failure {
    use std::cell::RefCell;

    thread_local!(static LAST: RefCell<Option<String>> = const { RefCell::new(None) });

    pub(super) fn remember(text: String) {
        LAST.with(|last| *last.borrow_mut() = Some(text));
    }

    pub(crate) fn take() -> Option<String> {
        LAST.with(|last| last.borrow_mut().take())
    }
}

/// Several: new keys are made in the first, and each key is opened by whichever knows it. For a move from one to another.
#[derive(Clone, Debug)]
pub struct Vaults(pub Vec<Arc<dyn KeyVault>>);

impl KeyVault for Vaults {
    fn generate(&self, label: &str) -> Result<CaKey, VaultError> {
        match self.0.first() {
            Some(vault) => vault.generate(label),
            None => Err(VaultError::Token("no place for keys is set".to_owned())),
        }
    }

    fn open(&self, kept: &Kept, beside: Option<&CertificateDer<'_>>) -> Result<CaKey, VaultError> {
        let mut unknown = VaultError::Token("no place for keys is set".to_owned());
        for vault in &self.0 {
            match vault.open(kept, beside) {
                Err(error @ VaultError::OtherKind { .. }) => unknown = error,
                known => return known,
            }
        }
        Err(unknown)
    }
}

/// Keys in files, protected by their mode alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainVault;

pub const PLAIN: &str = "PRIVATE KEY";

struct PlainKey(PrivateKey);

impl KeyVault for PlainVault {
    fn generate(&self, _label: &str) -> Result<CaKey, VaultError> {
        Ok(CaKey::new(PlainKey(PrivateKey::generate()?)))
    }

    fn open(&self, kept: &Kept, _beside: Option<&CertificateDer<'_>>) -> Result<CaKey, VaultError> {
        match kept.label.as_str() {
            PLAIN => Ok(CaKey::new(PlainKey(PrivateKey::from_pkcs8(&kept.body)?))),
            found => Err(VaultError::OtherKind { found: found.to_owned(), wanted: PLAIN }),
        }
    }
}

impl CaSigner for PlainKey {
    fn public(&self) -> &PublicKey {
        self.0.public()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        self.0.sign_der(message).ok_or(VaultError::Key(KeyError::Generate))
    }

    fn kept_as(&self) -> &'static str {
        PLAIN
    }

    fn keep(&self, _beside: Option<&CertificateDer<'_>>) -> Result<Kept, VaultError> {
        Ok(Kept { label: PLAIN.to_owned(), body: self.0.to_pkcs8()? })
    }
}
