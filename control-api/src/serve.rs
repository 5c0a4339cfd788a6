//! Listening: TLS first, then gRPC: for proxies by [`wire`], for operators by tonic's server. What a service learns of its caller is the identity that TLS has proved.
//!
//! Refused here: a handshake that fails or takes longer than 10 s, more connections than the limit (they wait in the
//! kernel's queue), and on the operators' port everybody who is not an operator.

use isthmus_certs::{PeerIdentity, ServerConfigs, peer_identity};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::server::Connected;

mod call;
pub(crate) mod wire;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After accept() failed (no descriptors left): retrying at once would only burn the CPU.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The other end of a connection. `identity` is none where the listener lets callers without a certificate in.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub identity: Option<PeerIdentity>,
}

/// After so long a caller without a certificate has what he came for. Signing in with a browser takes minutes.
const STRANGER_STAYS: Duration = Duration::from_secs(16 * 60);

/// One port: its socket, how TLS is done on it, who may pass, and how many at once.
pub struct Gate {
    pub listener: TcpListener,
    pub tls: ServerConfigs,
    pub admit: fn(&Peer) -> Result<(), String>,
    pub connections: usize,
    /// Of these, callers without a certificate, where they may be but must not crowd out the others.
    pub strangers: Option<Arc<Semaphore>>,
}

/// The identity of a caller who needs one.
pub fn required_identity(peer: Option<&Peer>) -> Result<PeerIdentity, Status> {
    peer.and_then(|peer| peer.identity.clone()).ok_or_else(|| {
        Status::unauthenticated(
            "this call needs a client certificate; enrol first (Enroll is the only call without one)",
        )
    })
}

/// Accepts until `shutdown`; finished handshakes come out as a stream for a server.
pub fn connections(
    gate: Gate,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> ReceiverStream<Result<Connection, io::Error>> {
    let (ready, stream) = mpsc::channel(64);
    let handshakes = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = accept_all(gate, handshakes, ready, shutdown.clone()) => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn accept_all(
    gate: Gate,
    handshakes: TaskTracker,
    ready: mpsc::Sender<Result<Connection, io::Error>>,
    shutdown: CancellationToken,
) {
    let limit = Arc::new(Semaphore::new(gate.connections));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else {
            return;
        };
        let (tcp, address) = match gate.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (tls, ready, admit, shutdown) = (gate.tls.clone(), ready.clone(), gate.admit, shutdown.clone());
        let strangers = gate.strangers.clone();
        handshakes.spawn(async move {
            let shaken = shake(tls, tcp, address, admit, (permit, strangers));
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, shaken);
            let done = tokio::select! {
                done = handshake => done,
                () = shutdown.cancelled() => return,
            };
            match done {
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(reason)) => tracing::info!(%address, reason, "connection refused"),
                Err(_) => tracing::info!(%address, "handshake took longer than 10 s"),
            }
        });
    }
}

async fn shake(
    tls: ServerConfigs,
    tcp: TcpStream,
    address: SocketAddr,
    admit: fn(&Peer) -> Result<(), String>,
    (permit, strangers): (OwnedSemaphorePermit, Option<Arc<Semaphore>>),
) -> Result<Connection, String> {
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let accepted = TlsAcceptor::from(tls.now()).accept(tcp).await;
    let tls = accepted.map_err(|error| match isthmus_certs::PeerError::from_io(&error) {
        Some(peer) => tls.own_fault(peer).to_string(),
        None => error.to_string(),
    })?;
    let certificates = tls.get_ref().1.peer_certificates();
    let identity = match certificates {
        Some(chain) => Some(peer_identity(chain).map_err(|error| error.word().to_string())?),
        None => None,
    };
    let peer = Peer { address, identity };
    admit(&peer)?;
    let stranger = match strangers.filter(|_| peer.identity.is_none()) {
        Some(few) => Some(few.try_acquire_owned().map_err(|_| "too many callers without a certificate".to_string())?),
        None => None,
    };
    let ends = stranger.is_some().then(|| Box::pin(tokio::time::sleep(STRANGER_STAYS)));
    Ok(Connection { tls: Box::new(tls), peer, ends, _permits: (permit, stranger) })
}

/// An accepted connection; gives its place back when it is dropped.
pub struct Connection {
    tls: Box<TlsStream<TcpStream>>,
    peer: Peer,
    /// Of a stranger among operators.
    ends: Option<Pin<Box<tokio::time::Sleep>>>,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Whether a stranger has stayed too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

/// From the buffer that TLS has anyway.
impl AsyncBufRead for Connection {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.tls).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.tls).consume(count);
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
