//! CA keys in a PKCS#11 token: a smart card, an HSM, or a network HSM through its vendor's module. Keys are made there,
//! marked sensitive and not extractable, and never leave; what is kept in our files is their id.
//!
//! One session, used by one caller at a time: a CA signs a few times per second at most. A session that broke (the HSM was
//! restarted, the link was down) is opened anew once per request; then the request fails and says so.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use isthmus_certs::PublicKey;
use isthmus_certs::vault::{CaKey, CaSigner, Kept, KeyVault, VaultError};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

pub(super) const REFERENCE: &str = "ISTHMUS PKCS11 KEY";

/// prime256v1, as DER writes it.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ID: usize = 16;
const WRAP_NONCE: usize = 12;
const WRAP_TAG_BITS: u64 = 128;
/// r and s, 32 bytes each.
const RAW_SIGNATURE: usize = 64;

/// One token, logged in to.
#[derive(Clone)]
pub(crate) struct TokenVault(Arc<Token>);

struct Token {
    module: PathBuf,
    label: String,
    context: Pkcs11,
    slot: Slot,
    pin: AuthPin,
    session: Mutex<Option<Session>>,
}

struct TokenKey {
    vault: TokenVault,
    id: Vec<u8>,
    public: PublicKey,
}

impl TokenVault {
    /// Opens the token of this label. The PIN is that of its user, not of its security officer.
    pub(crate) fn open(module: &Path, label: &str, pin: Zeroizing<String>) -> Result<Self, String> {
        let failed = |what: &str, error: &dyn fmt::Display| format!("PKCS#11 {}: {what}: {error}", module.display());
        let context = Pkcs11::new(module).map_err(|error| failed("cannot be loaded", &error))?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(cryptoki::error::Error::Pkcs11(cryptoki::error::RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed("cannot be initialised", &error)),
        }
        let slots = context.get_slots_with_token().map_err(|error| failed("cannot list its slots", &error))?;
        let is_named = |slot: &Slot| context.get_token_info(*slot).is_ok_and(|token| token.label() == label);
        let slot = slots.into_iter().find(is_named).ok_or_else(|| {
            failed("no such token", &format!("`{label}`; `pkcs11-tool --list-token-slots` shows those that there are"))
        })?;
        let (module, label, pin) = (module.to_path_buf(), label.to_owned(), AuthPin::new(pin.as_str().into()));
        let vault = TokenVault(Arc::new(Token { module, label, context, slot, pin, session: Mutex::default() }));
        vault.with_session(|_| Ok(())).map_err(|error| error.to_string())?;
        Ok(vault)
    }

    /// Runs `work` in a session; if it fails, once more in a fresh one.
    fn with_session<T>(&self, work: impl Fn(&Session) -> Result<T, cryptoki::error::Error>) -> Result<T, VaultError> {
        let mut held: MutexGuard<'_, _> = self.0.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = held.as_ref()
            && let Ok(done) = work(session)
        {
            return Ok(done);
        }
        // The old one first: a token logs out with its last session, and logs in once.
        drop(held.take());
        let session = self.0.login().map_err(|error| self.failed(&error))?;
        let done = work(&session).map_err(|error| self.failed(&error));
        *held = Some(session);
        done
    }

    fn failed(&self, error: &cryptoki::error::Error) -> VaultError {
        let (module, label) = (self.0.module.display(), &self.0.label);
        VaultError::Token(format!("PKCS#11 token `{label}` of {module}: {error}; is the HSM up, and the PIN right?"))
    }

    /// Encrypts with an AES key of the token's own, which is made there if there is none of this label yet.
    pub(crate) fn wrap(&self, label: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; WRAP_NONCE];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| VaultError::Token("no random bytes".to_owned()))?;
        let wrapped = self.with_session(|session| {
            let key = match find_wrapping(session, label)? {
                Some(key) => key,
                None => session.generate_key(&Mechanism::AesKeyGen, &wrapping_key(label))?,
            };
            let mut iv = nonce;
            let parameters = GcmParams::new(&mut iv, label.as_bytes(), WRAP_TAG_BITS.into())?;
            session.encrypt(&Mechanism::AesGcm(parameters), key, secret)
        })?;
        Ok([&nonce[..], &wrapped].concat())
    }

    /// What [`wrap`](Self::wrap) made, as it was.
    pub(crate) fn unwrap_secret(&self, label: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (nonce, body) = wrapped.split_first_chunk::<WRAP_NONCE>().ok_or(VaultError::Sealed)?;
        let missing =
            || VaultError::Token(format!("token `{}` does not hold the key `{label}` any more", self.0.label));
        let opened = self.with_session(|session| {
            let Some(key) = find_wrapping(session, label)? else { return Ok(None) };
            let mut iv = *nonce;
            let parameters = GcmParams::new(&mut iv, label.as_bytes(), WRAP_TAG_BITS.into())?;
            session.decrypt(&Mechanism::AesGcm(parameters), key, body).map(Some)
        })?;
        opened.map(Zeroizing::new).ok_or_else(missing)
    }

    fn key(&self, id: Vec<u8>) -> Result<CaKey, VaultError> {
        let point = self.with_session(|session| {
            let Some(public) = find(session, ObjectClass::PUBLIC_KEY, &id)? else { return Ok(None) };
            Ok(session.get_attributes(public, &[AttributeType::EcPoint])?.into_iter().next())
        })?;
        let missing = || VaultError::Token(format!("token `{}` does not hold the CA's key any more", self.0.label));
        let Some(Attribute::EcPoint(point)) = point else {
            return Err(missing());
        };
        // An OCTET STRING around the point (PKCS#11 v2.40 §2.3.3); some modules leave it out.
        let bare = point.strip_prefix(&[0x04, 65]).unwrap_or(&point);
        let public = PublicKey::from_point(bare).ok_or_else(missing)?;
        Ok(CaKey::new(TokenKey { vault: self.clone(), id, public }))
    }
}

impl Token {
    fn login(&self) -> Result<Session, cryptoki::error::Error> {
        use cryptoki::error::{Error, RvError};
        let session = self.context.open_rw_session(self.slot)?;
        match session.login(UserType::User, Some(&self.pin)) {
            // Logged in is the process, not the session.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(error),
        }
    }
}

fn find(session: &Session, class: ObjectClass, id: &[u8]) -> Result<Option<ObjectHandle>, cryptoki::error::Error> {
    let template = [Attribute::Class(class), Attribute::KeyType(KeyType::EC), Attribute::Id(id.to_vec())];
    Ok(session.find_objects(&template)?.first().copied())
}

fn wrapping_key(label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32.into()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

fn find_wrapping(session: &Session, label: &str) -> Result<Option<ObjectHandle>, cryptoki::error::Error> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    Ok(session.find_objects(&template)?.first().copied())
}

impl KeyVault for TokenVault {
    fn generate(&self, label: &str) -> Result<CaKey, VaultError> {
        let mut id = vec![0; ID];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| VaultError::Token("no random bytes".to_owned()))?;
        let named = [Attribute::Token(true), Attribute::Id(id.clone()), Attribute::Label(label.as_bytes().to_vec())];
        let public = [&named[..], &[Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)]].concat();
        let never_leaves = [
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        let private = [&named[..], &never_leaves[..]].concat();
        self.with_session(|session| session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private))?;
        self.key(id)
    }

    fn open(&self, kept: &Kept, _beside: Option<&CertificateDer<'_>>) -> Result<CaKey, VaultError> {
        match kept.label.as_str() {
            REFERENCE => self.key(kept.body.to_vec()),
            found => Err(VaultError::OtherKind { found: found.to_owned(), wanted: REFERENCE }),
        }
    }
}

impl CaSigner for TokenKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, VaultError> {
        let digest = Sha256::digest(message);
        let raw = self.vault.with_session(|session| {
            let Some(key) = find(session, ObjectClass::PRIVATE_KEY, &self.id)? else { return Ok(None) };
            session.sign(&Mechanism::Ecdsa, key, &digest).map(Some)
        })?;
        let unfit = || VaultError::Token(format!("token `{}` gave no P-256 signature", self.vault.0.label));
        let raw = raw.filter(|raw| raw.len() == RAW_SIGNATURE).ok_or_else(unfit)?;
        Ok(der(&raw))
    }

    fn kept_as(&self) -> &'static str {
        REFERENCE
    }

    fn keep(&self, _beside: Option<&CertificateDer<'_>>) -> Result<Kept, VaultError> {
        Ok(Kept { label: REFERENCE.to_owned(), body: Zeroizing::new(self.id.clone()) })
    }
}

/// SEQUENCE of two INTEGERs (RFC 3279 §2.2.3). All lengths stay below 128.
fn der(raw: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let zeros = half.iter().take_while(|byte| **byte == 0).count().min(half.len() - 1);
        let digits = &half[zeros..];
        let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
        [&[0x02, (digits.len() + sign.len()) as u8], sign, digits].concat()
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [&[0x30, body.len() as u8], &body[..]].concat()
}

impl fmt::Debug for TokenVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenVault({} in {})", self.0.label, self.0.module.display())
    }
}
