//! A gRPC channel to the control plane over our own TLS: who answers is checked in the handshake, before anything is sent.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use isthmus_certs::PeerError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::ControlError;
use super::error::advice;
use crate::tcp::{DialOptions, dial};

/// gRPC is HTTP/2.
pub(super) const ALPN: &[&[u8]] = &[b"h2"];
/// Name look-up, TCP and TLS together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// One of several addresses: a host that is gone must not use up the time for the others.
const ONE_DEADLINE: Duration = Duration::from_secs(3);
/// Below the shortest idle time of the firewalls in between (Azure: 240 s), and short enough to notice a dead peer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes to and from the control plane.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Dialing = BoxFuture<'static, io::Result<Box<dyn Wire>>>;

/// How the control plane is reached. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    /// For messages.
    pub(super) address: String,
    dial: Arc<dyn Fn() -> Dialing + Send + Sync>,
}

impl Dialer {
    /// TCP to `host:port`, or to one of several with commas between. The name is looked up at each attempt: the control plane may have moved.
    pub(super) fn tcp(address: &str, options: DialOptions) -> Self {
        let (target, last) = (address.to_owned(), Arc::new(Mutex::new(None)));
        Self::new(address, move || Box::pin(dial_any(target.clone(), options, Arc::clone(&last))))
    }

    pub(super) fn new(address: &str, dial: impl Fn() -> Dialing + Send + Sync + 'static) -> Self {
        Self { address: address.to_owned(), dial: Arc::new(dial) }
    }
}

/// The address that the last connection went to.
type Last = Arc<Mutex<Option<SocketAddr>>>;

/// The first address that answers, of all that the names have.
async fn dial_any(addresses: String, options: DialOptions, last_used: Last) -> io::Result<Box<dyn Wire>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut candidates = Vec::new();
    for address in addresses.split(',') {
        match tokio::net::lookup_host(address.trim()).await {
            Ok(found) => candidates.extend(found),
            Err(e) => last = e,
        }
    }
    in_turn(&mut candidates, *last_used.lock().unwrap_or_else(PoisonError::into_inner));
    for candidate in candidates {
        match tokio::time::timeout(ONE_DEADLINE, dial(candidate, options)).await {
            Ok(Ok(stream)) => {
                *last_used.lock().unwrap_or_else(PoisonError::into_inner) = Some(candidate);
                return Ok(Box::new(stream));
            }
            Ok(Err(e)) => last = e,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{candidate}: no answer")),
        }
    }
    Err(last)
}

/// In an order of our own, so that a fleet spreads over the control planes that there are, and over those that are left.
/// The one of last time goes last: it was left, or has let this proxy go, and the next one may well serve.
fn in_turn(candidates: &mut [SocketAddr], last_used: Option<SocketAddr>) {
    candidates.sort_by_cached_key(|candidate| (Some(*candidate) == last_used, rand::random::<u64>()));
}

impl Dialer {
    /// The error for a handshake that failed over who somebody is.
    pub(super) fn refused(&self, peer: PeerError) -> ControlError {
        ControlError::Peer { address: self.address.clone(), peer, advice: advice(peer) }
    }
}

/// Connects once. The channel does not outlive its connection for long: whoever sees it fail makes a new one.
pub(super) async fn channel(dialer: &Dialer, tls: Arc<ClientConfig>) -> Result<Channel, ControlError> {
    let dial = Arc::clone(&dialer.dial);
    let connector = tower::service_fn(move |_: Uri| {
        let (wire, tls) = (dial(), Arc::clone(&tls));
        async move { handshake(wire.await?, tls).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://control-plane")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true);
    let connecting = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(e)) => Err(unreachable_error(dialer, e)),
        Err(_) => Err(ControlError::Timeout(CONNECT_DEADLINE.as_secs())),
    }
}

async fn handshake(wire: Box<dyn Wire>, tls: Arc<ClientConfig>) -> io::Result<impl Wire> {
    // Not sent and not checked: the certificate's SPIFFE id decides.
    let name = ServerName::try_from("control-plane").map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, wire).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(stream),
        _ => {
            Err(io::Error::other("the other end does not speak HTTP/2: is this the control plane's port for proxies?"))
        }
    }
}

fn unreachable_error(dialer: &Dialer, source: tonic::transport::Error) -> ControlError {
    let address = dialer.address.clone();
    match PeerError::find(&source) {
        Some(peer) => dialer.refused(peer),
        None => ControlError::Unreachable { address, source },
    }
}

#[cfg(test)]
#[path = "connect_test.rs"]
mod connect_test;
