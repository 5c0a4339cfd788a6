//! TLS that the proxy begins for an app, towards a server outside of the mesh: what the app says in plain leaves as TLS. The
//! server has to prove the name that was configured, under the roots that were, else not a byte is sent.
//!
//! What comes out is a connection like any other: a task of its own carries bytes between it and the TLS, over the
//! loopback interface, so that an app's reset is still a reset and no end of the server's that lacks its close_notify
//! passes for an orderly one. Refuses certificates that are not for the name, and TLS below 1.2.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::reason::Reason;
use crate::tcp::{self, DialOptions, dial};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Files are read again so often: certificates on a host are renewed by others.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// Where hosts keep their roots; the first that is there counts.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

static TLS13_ONLY: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// What the server is told that will be spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    Bytes,
    Http1,
    Http2,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum OriginateError {
    #[error("the server's certificate is not accepted: {0}")]
    Certificate(rustls::Error),
    #[error("the handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Configuration(String),
}

/// The reason of an error that [`Origination::dial`] gave.
pub fn reason_of(error: &io::Error) -> Option<Reason> {
    match error.get_ref()?.downcast_ref::<OriginateError>()? {
        OriginateError::Certificate(_) => Some(Reason::PeerIdentity),
        OriginateError::Handshake(_) | OriginateError::Configuration(_) => Some(Reason::ConnectFailed),
    }
}

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// SNI, and what the certificate has to be for.
    pub server_name: String,
    /// DER. Empty: the roots of this host.
    pub roots_der: Vec<Vec<u8>>,
    /// Certificate and key, files of this host.
    pub client: Option<(String, String)>,
    /// Nothing older is accepted; else TLS 1.2 is.
    pub only_tls13: bool,
}

/// One worker's way to one kind of server.
#[derive(Debug)]
pub struct Origination {
    settings: Settings,
    options: DialOptions,
    made: RefCell<Option<(Arc<ClientConfig>, Instant)>>,
}

impl Origination {
    pub fn new(settings: Settings, options: DialOptions) -> Rc<Origination> {
        Rc::new(Origination { settings, options, made: RefCell::default() })
    }

    /// Connects and shakes hands. Errors of TLS are [`OriginateError`] inside.
    ///
    /// # Errors
    /// The kernel's, `TimedOut`, or why there is no TLS.
    pub async fn dial(&self, address: SocketAddr, inside: Inside) -> io::Result<TcpStream> {
        let mut config = self.config().map_err(|why| io::Error::other(OriginateError::Configuration(why)))?;
        if inside != Inside::Bytes {
            let protocol: &[u8] = if inside == Inside::Http2 { b"h2" } else { b"http/1.1" };
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol.to_vec()];
        }
        let name = ServerName::try_from(self.settings.server_name.clone()).map_err(io::Error::other)?;
        let far = dial(address, self.options).await?;
        let shaken = timeout(HANDSHAKE, TlsConnector::from(config).connect(name, far)).await;
        let shaken = shaken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))?;
        let far = shaken.map_err(|error| io::Error::other(classify(error)))?;
        let (near, ours) = pair().await?;
        // Ends with either side.
        tokio::task::spawn_local(relay(ours, far));
        Ok(near)
    }

    /// Kept for a minute, so that what was renewed in the files is used.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some((config, since)) = &*self.made.borrow()
            && since.elapsed() < READ_AGAIN
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(build(&self.settings)?);
        *self.made.borrow_mut() = Some((Arc::clone(&config), Instant::now()));
        Ok(config)
    }
}

/// What the proxy's own environment says, as for most programs of the host, else what is there.
fn host_roots() -> Option<PathBuf> {
    let said = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    said.map(PathBuf::from).or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|file| file.exists()))
}

fn build(settings: &Settings) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if settings.roots_der.is_empty() {
        let file = host_roots().ok_or("this host has no roots of its own: name a `ca`")?;
        let found = CertificateDer::pem_file_iter(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        roots.add_parsable_certificates(found.flatten());
    } else {
        for root in &settings.roots_der {
            let added = roots.add(CertificateDer::from(root.as_slice()).into_owned());
            added.map_err(|error| format!("`ca` cannot be used: {error}"))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(isthmus_certs::provider())
        .with_protocol_versions(if settings.only_tls13 { &TLS13_ONLY } else { rustls::DEFAULT_VERSIONS })
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &settings.client else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| format!("{certificate}: {error}"))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{certificate}: {error}"))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: {error}"))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| format!("{certificate} and {key}: {error}"))
}

fn classify(error: io::Error) -> OriginateError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(found @ rustls::Error::InvalidCertificate(_)) => OriginateError::Certificate(found.clone()),
        _ => OriginateError::Handshake(error),
    }
}

/// Two ends of one connection over loopback, both ours.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let own = near.local_addr()?;
    loop {
        let (ours, from) = listener.accept().await?;
        // Another program may have come first.
        if from == own {
            tcp::prepare(&near);
            tcp::prepare(&ours);
            return Ok((near, ours));
        }
    }
}

async fn relay(mut ours: TcpStream, mut far: tokio_rustls::client::TlsStream<TcpStream>) {
    if tokio::io::copy_bidirectional(&mut ours, &mut far).await.is_err() {
        tcp::mark_reset(&ours);
        tcp::mark_reset(far.get_ref().0);
    }
}
