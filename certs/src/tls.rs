//! rustls configurations for every mesh connection. TLS 1.3 only, one crypto provider, no resumption: who the peer is
//! gets checked in each handshake, against the identity and the roots of that moment.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundle::{RootFingerprint, TrustBundle};
use crate::clock::TlsClock;
use crate::id::SpiffeId;
use crate::peer_error::PeerError;
use crate::profile::CryptoProfile;
use crate::store::IdentityStore;
use crate::verify::{self, Role};

/// Whether a server insists on a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection: the mesh port and the operators' port.
    Required,
    /// A certificate is checked if shown: the control plane's port for proxies, where Enroll comes without one. The
    /// server must then ask [`peer_identity`](crate::peer_identity) who is there before it answers anything else.
    Optional,
}

/// Whom a client is willing to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// One of these, of our trust domain or one that we believe, signed by the bundle of its own. An empty list accepts nobody.
    AnyOf(Vec<SpiffeId>),
    /// First contact: a chain that contains the root with this fingerprint, ending at this identity. No client
    /// certificate is shown.
    PinnedRoot(RootFingerprint, SpiffeId),
    /// Only to compare clocks, after a handshake failed over a certificate's dates: the root and the identity are checked
    /// as ever, the dates against themselves. No certificate is shown, and nothing secret may be sent.
    ClockProbe(TrustBundle, SpiffeId),
    /// The same where only the root's fingerprint is known.
    PinnedClockProbe(RootFingerprint, SpiffeId),
}

/// The one crypto provider of the mesh, AWS-LC, with everything that [`CryptoProfile::Default`] allows. Pass it on wherever
/// rustls is used; nothing here relies on a process-wide default.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProfile::Default.provider()
}

/// A server's configuration, of whichever profile is in force when a connection comes.
#[derive(Clone)]
pub struct ServerConfigs {
    store: Arc<IdentityStore>,
    default: Arc<ServerConfig>,
    fips: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// For the next handshake.
    pub fn now(&self) -> Arc<ServerConfig> {
        match self.store.profile() {
            CryptoProfile::Default => self.default.clone(),
            CryptoProfile::Fips => self.fips.clone(),
        }
    }

    /// As [`IdentityStore::own_fault`].
    pub fn own_fault(&self, found: PeerError) -> PeerError {
        self.store.own_fault(found)
    }
}

impl IdentityStore {
    /// A server that shows the current identity and checks its clients against the current bundle, with the algorithms
    /// that are in force now. For one handshake, or where the profile never changes; see [`server_configs`](Self::server_configs).
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]], clients: ClientAuth) -> Arc<ServerConfig> {
        self.server(self.profile().provider(), alpn, clients, false)
    }

    /// As [`server_config`](Self::server_config), with the root at the end of the chain, so that a client which knows
    /// only its fingerprint ([`ExpectedPeer::PinnedRoot`]) can check it. Costs every client some 500 bytes.
    pub fn server_config_with_root(self: &Arc<Self>, alpn: &[&[u8]], clients: ClientAuth) -> Arc<ServerConfig> {
        self.server(self.profile().provider(), alpn, clients, true)
    }

    /// What a listener needs for as long as it lives.
    pub fn server_configs(self: &Arc<Self>, alpn: &[&[u8]], clients: ClientAuth, with_root: bool) -> ServerConfigs {
        let of = |profile: CryptoProfile| self.server(profile.provider(), alpn, clients, with_root);
        ServerConfigs { store: self.clone(), default: of(CryptoProfile::Default), fips: of(CryptoProfile::Fips) }
    }

    fn server(
        self: &Arc<Self>,
        provider: Arc<CryptoProvider>,
        alpn: &[&[u8]],
        clients: ClientAuth,
        with_root: bool,
    ) -> Arc<ServerConfig> {
        let verifier = CheckClient { store: self.clone(), mandatory: clients == ClientAuth::Required };
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(TlsClock(self.clock().clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("AWS-LC has TLS 1.3 cipher suites and key exchanges")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OwnCertificate { store: self.clone(), with_root }));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// A client that talks to `expected` alone. The server name given to rustls plays no part: identities are not
    /// names; use the peer's address.
    pub fn client_config(self: &Arc<Self>, alpn: &[&[u8]], expected: ExpectedPeer) -> Arc<ClientConfig> {
        self.client(self.profile().provider(), alpn, expected)
    }

    /// As [`client_config`](Self::client_config), with a ClientHello that fits into one segment: elliptic curves only,
    /// nothing against a quantum computer. To be used where the other was tried and got no answer, and reported.
    pub fn client_config_small_hello(self: &Arc<Self>, alpn: &[&[u8]], expected: ExpectedPeer) -> Arc<ClientConfig> {
        self.client(self.profile().small_hello(), alpn, expected)
    }

    fn client(
        self: &Arc<Self>,
        provider: Arc<CryptoProvider>,
        alpn: &[&[u8]],
        expected: ExpectedPeer,
    ) -> Arc<ClientConfig> {
        let shows_certificate = matches!(expected, ExpectedPeer::AnyOf(_));
        let builder = ClientConfig::builder_with_details(provider, Arc::new(TlsClock(self.clock().clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("AWS-LC has TLS 1.3 cipher suites and key exchanges")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(CheckServer { store: self.clone(), expected }));
        let mut config = if shows_certificate {
            builder.with_client_cert_resolver(Arc::new(OwnCertificate { store: self.clone(), with_root: false }))
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::disabled();
        // Mesh peers are dialled by address, and a name in clear would tell the wire more than it needs.
        config.enable_sni = false;
        Arc::new(config)
    }
}

/// Shows the identity of the moment.
struct OwnCertificate {
    store: Arc<IdentityStore>,
    with_root: bool,
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.store.held().certified(self.with_root, self.store.now())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.store.held().certified(self.with_root, self.store.now())
    }
    fn has_certs(&self) -> bool {
        self.store.shown().is_some()
    }
}

struct CheckServer {
    store: Arc<IdentityStore>,
    expected: ExpectedPeer,
}

impl CheckServer {
    fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        match &self.expected {
            ExpectedPeer::PinnedRoot(pin, id) => verify::verify_pinned(chain, pin, id, now).map(drop),
            ExpectedPeer::PinnedClockProbe(pin, id) => {
                verify::verify_pinned(chain, pin, id, verify::when_it_held(chain, now)?).map(drop)
            }
            ExpectedPeer::ClockProbe(bundle, id) => {
                let when = verify::when_it_held(chain, now)?;
                let peer = verify::verify_chain(chain, bundle, id.trust_domain(), Role::Server, when)?;
                if peer.id == *id { Ok(()) } else { Err(PeerError::WrongIdentity) }
            }
            ExpectedPeer::AnyOf(ids) => {
                let held = self.store.held();
                let peer = verify::verify_among(chain, &held, self.store.trust_domain(), Role::Server, now)?;
                if held.revocations.cover(&peer) {
                    return Err(PeerError::Revoked);
                }
                if !ids.contains(&peer.id) {
                    return Err(PeerError::WrongIdentity);
                }
                // Nothing would be shown, and the peer could only say that there is nobody. This way both know why.
                let lapsed = held.identity.as_ref().is_some_and(|own| !own.holds_at(now));
                if lapsed { Err(PeerError::OwnDates) } else { Ok(()) }
            }
        }
    }
}

impl ServerCertVerifier for CheckServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(&whole(leaf, intermediates), now).map_err(PeerError::into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &verify::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        verify::algorithms().supported_schemes()
    }
}

struct CheckClient {
    store: Arc<IdentityStore>,
    mandatory: bool,
}

impl ClientCertVerifier for CheckClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: a client has one certificate, and our roots are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = whole(leaf, intermediates);
        let held = self.store.held();
        let peer = verify::verify_among(&chain, &held, self.store.trust_domain(), Role::Client, now)
            .map_err(PeerError::into_rustls)?;
        if held.revocations.cover(&peer) {
            return Err(PeerError::Revoked.into_rustls());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(never_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &verify::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        verify::algorithms().supported_schemes()
    }
}

/// The chain as it was sent. The copies borrow.
fn whole<'a>(leaf: &'a CertificateDer<'_>, rest: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).map(|cert| CertificateDer::from(cert.as_ref())).collect()
}

fn never_tls12() -> Error {
    PeerError::Incompatible.into_rustls()
}

impl fmt::Debug for ServerConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerConfigs({})", self.store.profile())
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnCertificate(with_root: {})", self.with_root)
    }
}

impl fmt::Debug for CheckServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckServer({:?})", self.expected)
    }
}

impl fmt::Debug for CheckClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckClient(mandatory: {})", self.mandatory)
    }
}

#[cfg(test)]
#[path = "tls_test.rs"]
mod tls_test;

#[cfg(test)]
#[path = "tls_swap_test.rs"]
mod tls_swap_test;
