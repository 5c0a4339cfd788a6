//! How values stand in a store: JSON, in plain or encrypted (AES-256-GCM) under a data key of the store's own.
//!
//! The data key stands beside the values, wrapped by what only the control plane has ([`Wrap`]): a passphrase file or a
//! PKCS#11 token. A value is bound to its name, so that none can be put in another's place. Names stay readable: prefixes
//! are looked up by them. Refused: an encrypted store without its key, and a plain one with a key (it is to be migrated).

use super::StoreError;
use crate::authority::{SealedVault, TokenVault};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// The first byte of an encrypted value. JSON never begins with it.
const ENCRYPTED: u8 = 1;
const DATA_KEY: usize = 32;
/// Of the AES key in a token.
const TOKEN_KEY: &str = "isthmus store";

/// What wraps a data key.
#[derive(Clone)]
pub enum Wrap {
    Passphrase(Passphrase),
    Token(Token),
}

/// A passphrase or a key file, opened.
#[derive(Clone)]
pub struct Passphrase(SealedVault);

/// A PKCS#11 token, logged in to.
#[derive(Clone)]
pub struct Token(TokenVault);

/// Writes and reads the values of one store.
#[derive(Clone, Default)]
pub struct Codec {
    wrap: Option<Wrap>,
    key: Arc<OnceLock<LessSafeKey>>,
}

/// As it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrappedKey {
    /// `passphrase` or `pkcs11`.
    by: String,
    /// Base64.
    wrapped: String,
}

impl Wrap {
    /// By a passphrase or a key file, mode 0600.
    pub fn passphrase(path: &std::path::Path) -> Result<Self, String> {
        SealedVault::from_file(path).map(|vault| Wrap::Passphrase(Passphrase(vault)))
    }

    /// As `store.encryption` of `control.yaml` says it.
    pub fn configured(keys: &crate::config::StoreKeys) -> Result<Self, String> {
        match keys {
            crate::config::StoreKeys::PassphraseFile(path) => Self::passphrase(path),
            crate::config::StoreKeys::Pkcs11(token) => {
                let pin = crate::authority::read_pin(&token.pin_file)?;
                TokenVault::open(&token.module, &token.token, pin).map(|vault| Wrap::Token(Token(vault)))
            }
        }
    }

    /// Derived in no time, which is for tests alone.
    #[cfg(test)]
    pub(crate) fn cheap(passphrase: &str) -> Self {
        Wrap::Passphrase(Passphrase(SealedVault::cheap(passphrase)))
    }

    #[cfg(test)]
    pub(crate) fn of_token(vault: TokenVault) -> Self {
        Wrap::Token(Token(vault))
    }

    fn name(&self) -> &'static str {
        match self {
            Wrap::Passphrase(_) => "passphrase",
            Wrap::Token(_) => "pkcs11",
        }
    }

    /// Wraps a secret of any length.
    pub fn wrap(&self, secret: &[u8]) -> Result<Vec<u8>, StoreError> {
        match self {
            Wrap::Passphrase(Passphrase(vault)) => vault.seal(secret, None),
            Wrap::Token(Token(vault)) => vault.wrap(TOKEN_KEY, secret),
        }
        .map_err(|error| StoreError::Sealed(error.to_string()))
    }

    /// What [`wrap`](Self::wrap) made, as it was.
    pub fn unwrap_secret(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self {
            Wrap::Passphrase(Passphrase(vault)) => vault.unseal(wrapped, None),
            Wrap::Token(Token(vault)) => vault.unwrap_secret(TOKEN_KEY, wrapped),
        }
        .map_err(|error| StoreError::Sealed(error.to_string()))
    }
}

impl Codec {
    /// Values are encrypted, and the data key is wrapped by `wrap`.
    pub fn encrypted(wrap: Wrap) -> Self {
        Codec { wrap: Some(wrap), key: Arc::default() }
    }

    /// The same wrapping, without a key yet.
    pub(super) fn again(&self) -> Codec {
        Codec { wrap: self.wrap.clone(), key: Arc::default() }
    }

    pub fn is_encrypted(&self) -> bool {
        self.wrap.is_some()
    }

    /// Takes the store's data key into use. `found`: as it stands in the store; `empty`: there are no values yet. Returns
    /// the key that is to be written there, if one was made.
    pub(super) fn unlock(&self, found: Option<&[u8]>, empty: bool) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = |why: &str| StoreError::Sealed(why.to_string());
        match (&self.wrap, found) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(sealed("its values are encrypted; say with what, in store.encryption")),
            (Some(_), None) if !empty => {
                Err(sealed("its values are in plain; `isthmus store migrate` makes an encrypted one of it"))
            }
            (Some(wrap), None) => {
                let mut key = Zeroizing::new([0; DATA_KEY]);
                aws_lc_rs::rand::fill(&mut *key).map_err(|_| sealed("no random bytes"))?;
                self.take(&*key)?;
                wrapped(wrap, &*key).map(Some)
            }
            (Some(wrap), Some(found)) => self.take(&open(wrap, found)?).map(|()| None),
        }
    }

    fn take(&self, key: &[u8]) -> Result<(), StoreError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new);
        let key = key.map_err(|_| StoreError::Sealed("the data key has another length".to_string()))?;
        // Taken once; a store is opened once.
        let _ = self.key.set(key);
        Ok(())
    }

    pub(super) fn read<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, StoreError> {
        let damaged = |why: String| StoreError::Damaged { what: name.to_string(), why };
        let json = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()));
        let Some(key) = self.key.get() else { return json(bytes) };
        let foreign = || damaged("it was not written under this store's key, or not for this name".to_string());
        let (nonce, body) = bytes
            .strip_prefix(&[ENCRYPTED])
            .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>())
            .ok_or_else(foreign)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut body).map_err(|_| foreign())?;
        json(opened)
    }

    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<Vec<u8>, StoreError> {
        let failed = |why: &dyn fmt::Display| StoreError::Io(why.to_string());
        let json = serde_json::to_vec(value).map_err(|error| failed(&error))?;
        let Some(key) = self.key.get() else { return Ok(json) };
        let mut json = Zeroizing::new(json);
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed(&"no random bytes"))?;
        let aad = Aad::from(name.as_bytes());
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut json);
        let tag = tag.map_err(|_| failed(&"a value could not be encrypted"))?;
        Ok([&[ENCRYPTED][..], &nonce, &json, tag.as_ref()].concat())
    }
}

/// The same data key, wrapped by another one: what is copied from now on opens with that one alone.
pub(super) fn rewrap(found: &[u8], former: &Wrap, new: &Wrap) -> Result<Vec<u8>, StoreError> {
    wrapped(new, &open(former, found)?)
}

fn wrapped(wrap: &Wrap, key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let record = WrappedKey { by: wrap.name().to_string(), wrapped: STANDARD.encode(wrap.wrap(key)?) };
    serde_json::to_vec(&record).map_err(|error| StoreError::Io(error.to_string()))
}

fn open(wrap: &Wrap, found: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let damaged = |why: String| StoreError::Damaged { what: "the data key".to_string(), why };
    let record: WrappedKey = serde_json::from_slice(found).map_err(|error| damaged(error.to_string()))?;
    if record.by != wrap.name() {
        let why = format!("its key is wrapped by {}, and store.encryption names a {}", record.by, wrap.name());
        return Err(StoreError::Sealed(why));
    }
    let bytes = STANDARD.decode(&record.wrapped).map_err(|error| damaged(error.to_string()))?;
    wrap.unwrap_secret(&bytes)
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_encrypted() { "Codec(encrypted)" } else { "Codec(plain)" })
    }
}

impl fmt::Debug for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod codec_test;
