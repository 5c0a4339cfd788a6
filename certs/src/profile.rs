//! Which algorithms mesh connections may use: one provider per profile, and what a handshake agreed on.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::CommonState;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The algorithms of a mesh's connections. TLS 1.3 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CryptoProfile {
    /// X25519MLKEM768 preferred, X25519, P-256, P-384; AES-GCM and ChaCha20-Poly1305.
    #[default]
    Default,
    /// What NIST SP 800-52r2 names for TLS 1.3: P-256 and P-384, AES-GCM, and nothing else.
    Fips,
}

impl CryptoProfile {
    pub const ALL: [Self; 2] = [Self::Default, Self::Fips];

    /// `default` or `fips`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fips => "fips",
        }
    }

    /// Whether the cryptography that is linked is a module validated for FIPS 140-3. A profile restricts algorithms; only
    /// another build changes the module.
    pub fn module_is_fips() -> bool {
        Self::Fips.provider().fips()
    }

    /// `crypto profile fips (fips module: no)`, for logs and lists.
    pub fn in_words(self) -> String {
        let module = if Self::module_is_fips() { "yes" } else { "no" };
        format!("crypto profile {self} (fips module: {module})")
    }

    pub(crate) fn provider(self) -> Arc<CryptoProvider> {
        match self {
            Self::Default => HYBRID.clone(),
            Self::Fips => FIPS.clone(),
        }
    }

    /// With elliptic curves alone, for ways that drop what a hybrid hello needs: it is two segments long (ML-KEM-768's
    /// public key has 1,184 bytes), and some middleboxes know hellos of one.
    pub(crate) fn small_hello(self) -> Arc<CryptoProvider> {
        match self {
            Self::Default => CLASSICAL.clone(),
            Self::Fips => FIPS.clone(),
        }
    }
}

/// Hybrid key exchange first (draft-ietf-tls-ecdhe-mlkem).
static HYBRID: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

static CLASSICAL: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider { kx_groups: vec![kx_group::X25519, kx_group::SECP256R1], ..aws_lc_rs::default_provider() })
});

static FIPS: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::SECP256R1, kx_group::SECP384R1],
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    })
});

impl fmt::Display for CryptoProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a handshake agreed on, by the names that IANA gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Negotiated {
    pub version: &'static str,
    pub group: &'static str,
    pub cipher: &'static str,
}

impl Negotiated {
    /// Every group and cipher that a profile may lead to; what else there may be is `other`.
    pub const GROUPS: [&str; 5] = ["X25519MLKEM768", "x25519", "secp256r1", "secp384r1", "other"];
    pub const CIPHERS: [&str; 4] =
        ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256", "other"];

    /// Of a finished handshake. Mesh connections have TLS 1.3 or there are none.
    pub fn of(connection: &CommonState) -> Self {
        use rustls::{CipherSuite as C, NamedGroup as G, ProtocolVersion as V};
        let group = match connection.negotiated_key_exchange_group().map(|group| group.name()) {
            Some(G::X25519MLKEM768) => 0,
            Some(G::X25519) => 1,
            Some(G::secp256r1) => 2,
            Some(G::secp384r1) => 3,
            _ => 4,
        };
        let cipher = match connection.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(C::TLS13_AES_256_GCM_SHA384) => 0,
            Some(C::TLS13_AES_128_GCM_SHA256) => 1,
            Some(C::TLS13_CHACHA20_POLY1305_SHA256) => 2,
            _ => 3,
        };
        let version = if connection.protocol_version() == Some(V::TLSv1_3) { "1.3" } else { "other" };
        Self { version, group: Self::GROUPS[group], cipher: Self::CIPHERS[cipher] }
    }
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS {}, {}, {}", self.version, self.group, self.cipher)
    }
}
