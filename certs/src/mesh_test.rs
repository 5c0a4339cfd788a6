//! What the tests of this crate share: a mesh with a clock to move, and handshakes over byte buffers.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, Issuer};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection, SideData};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::template::{ca_params, earlier, later, leaf_params, random_serial};
use crate::*;

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW_MS: i64 = 1_800_000_000_000;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A trust domain, its authority and its clock.
pub(crate) struct Mesh {
    pub(crate) clock: ManualClock,
    pub(crate) ca: CertificateAuthority,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let clock = ManualClock::at_ms(NOW_MS);
        let ca = CertificateAuthority::generate(&td(trust_domain), Arc::new(clock.clone())).unwrap();
        Self { clock, ca }
    }

    pub(crate) fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(self.ca.trust_domain(), "shop", account).unwrap()
    }

    pub(crate) fn identity(&self, id: &SpiffeId, lifetime: Duration) -> WorkloadIdentity {
        let key = csr::new_key().unwrap();
        let proven = csr::verify(&csr::request(&key).unwrap()).unwrap();
        let issued = self.ca.issue(&proven, id, lifetime, &[]).unwrap();
        WorkloadIdentity::from_issued(issued, key, self.ca.bundle(), self.clock.now()).unwrap()
    }

    pub(crate) fn empty_store(&self) -> Arc<IdentityStore> {
        IdentityStore::new(self.ca.trust_domain().clone(), Arc::new(self.clock.clone()))
    }

    /// A workload of namespace `shop` with a certificate for an hour.
    pub(crate) fn store(&self, account: &str) -> Arc<IdentityStore> {
        let store = self.empty_store();
        store.replace(self.identity(&self.id(account), HOUR)).unwrap();
        store
    }
}

/// An authority that signs whatever a test asks it to.
pub(crate) struct Forge {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) issuing: CertificateDer<'static>,
    issuer: Issuer<'static, PrivateKey>,
    root_issuer: Issuer<'static, PrivateKey>,
    now: UnixTime,
}

impl Forge {
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self::with(trust_domain, |_| (), |_| ())
    }

    /// With changes to the root's and the issuing CA's content.
    pub(crate) fn with(
        trust_domain: &str,
        root: impl FnOnce(&mut CertificateParams),
        issuing: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let (trust_domain, now) = (td(trust_domain), at(NOW_MS as u64 / 1000));
        let year = 365 * 24 * HOUR;
        let root_key = PrivateKey::generate().unwrap();
        let mut params = ca_params(&trust_domain, "root", BasicConstraints::Unconstrained, year, now).unwrap();
        root(&mut params);
        let root: CertificateDer<'_> = params.self_signed(&root_key).unwrap().into();
        let root_issuer = Issuer::new(params, root_key);

        let key = PrivateKey::generate().unwrap();
        let mut params = ca_params(&trust_domain, "issuing CA", BasicConstraints::Constrained(0), year, now).unwrap();
        issuing(&mut params);
        let issuing = params.signed_by(key.public(), &root_issuer).unwrap().into();
        Self { root, issuing, issuer: Issuer::new(params, key), root_issuer, now }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_ders([&self.root]).unwrap()
    }

    /// A leaf for `uri`, an hour long, changed by `change`; with its chain.
    pub(crate) fn chain(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        self.chain_for(PrivateKey::generate().unwrap().public(), uri, change)
    }

    pub(crate) fn chain_for(
        &self,
        key: &PublicKey,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let params = self.params(uri, change);
        vec![params.signed_by(key, &self.issuer).unwrap().into(), self.issuing.clone()]
    }

    /// A leaf that the root itself signed.
    pub(crate) fn chain_without_issuing(&self, uri: &str) -> Vec<CertificateDer<'static>> {
        let key = PrivateKey::generate().unwrap();
        vec![self.params(uri, |_| ()).signed_by(key.public(), &self.root_issuer).unwrap().into()]
    }

    /// A leaf below a CA that the issuing CA made, against its path length of 0.
    pub(crate) fn chain_through_another_ca(&self, uri: &str) -> Vec<CertificateDer<'static>> {
        let (ca_key, key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let trust_domain = td("shop.example");
        let params = ca_params(&trust_domain, "third", BasicConstraints::Constrained(0), HOUR, self.now).unwrap();
        let ca = params.signed_by(ca_key.public(), &self.issuer).unwrap().into();
        let leaf = self.params(uri, |_| ()).signed_by(key.public(), &Issuer::new(params, ca_key)).unwrap();
        vec![leaf.into(), ca, self.issuing.clone()]
    }

    fn params(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let id = SpiffeId::parse(uri).unwrap();
        let (from, to) = (earlier(self.now, HOUR), later(self.now, HOUR));
        let mut params = leaf_params(&id, &[], random_serial().unwrap(), from, to).unwrap();
        change(&mut params);
        params
    }
}

/// Both ends of a finished or failed handshake.
pub(crate) struct Handshake {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
}

impl Handshake {
    /// Moves bytes, alerts included, until nobody has more to say.
    pub(crate) fn run(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Self {
        let name = ServerName::try_from("192.0.2.1").unwrap();
        let mut this = Self {
            client: ClientConnection::new(client, name).unwrap(),
            server: ServerConnection::new(server).unwrap(),
            client_error: None,
            server_error: None,
        };
        loop {
            let moved = carry(&mut this.client, &mut this.server, &mut this.server_error)
                + carry(&mut this.server, &mut this.client, &mut this.client_error);
            if moved == 0 {
                return this;
            }
        }
    }

    pub(crate) fn ok(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    #[track_caller]
    pub(crate) fn assert_ok(&self) {
        assert!(self.ok(), "client: {:?}, server: {:?}", self.client_error, self.server_error);
    }

    /// Why the client and the server gave up.
    pub(crate) fn reasons(&self) -> (Option<PeerError>, Option<PeerError>) {
        let reason = |error: &Option<Error>| error.as_ref().and_then(PeerError::from_rustls);
        (reason(&self.client_error), reason(&self.server_error))
    }
}

fn carry<A, B>(from: &mut A, to: &mut B, error: &mut Option<Error>) -> usize
where
    A: std::ops::DerefMut<Target: Tls>,
    B: std::ops::DerefMut<Target: Tls>,
{
    let mut wire = Vec::new();
    from.drain_tls(&mut wire);
    if error.is_none() {
        *error = to.feed_tls(&wire);
    }
    wire.len()
}

/// What both connection types share, without naming their side.
pub(crate) trait Tls {
    fn drain_tls(&mut self, wire: &mut Vec<u8>);
    fn feed_tls(&mut self, wire: &[u8]) -> Option<Error>;
}

impl<S: SideData> Tls for ConnectionCommon<S> {
    fn drain_tls(&mut self, wire: &mut Vec<u8>) {
        while self.wants_write() {
            self.write_tls(wire).unwrap();
        }
    }

    fn feed_tls(&mut self, mut wire: &[u8]) -> Option<Error> {
        while !wire.is_empty() {
            self.read_tls(&mut wire).unwrap();
            if let Err(error) = self.process_new_packets() {
                return Some(error);
            }
        }
        None
    }
}
