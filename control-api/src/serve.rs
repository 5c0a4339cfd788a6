//! Listening: TLS first, then gRPC. What a service learns of its caller is the identity that TLS has proved.
//!
//! Refused here: a handshake that fails or takes longer than 10 s, more connections than the limit (they wait in the
//! kernel's queue), and on the operators' port everybody who is not an operator.

use isthmus_certs::{PeerIdentity, ServerConfigs, peer_identity};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::server::Connected;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// After accept() failed (no descriptors left): retrying at once would only burn the CPU.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The other end of a connection. `identity` is none where the listener lets callers without a certificate in.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    pub identity: Option<PeerIdentity>,
}

/// One port: its socket, how TLS is done on it, who may pass, and how many at once.
pub struct Gate {
    pub listener: TcpListener,
    pub tls: ServerConfigs,
    pub admit: fn(&Peer) -> Result<(), String>,
    pub connections: usize,
}

/// The identity of a caller who needs one.
pub fn required_identity(peer: Option<&Peer>) -> Result<PeerIdentity, Status> {
    peer.and_then(|peer| peer.identity.clone()).ok_or_else(|| {
        Status::unauthenticated(
            "this call needs a client certificate; enrol first (Enroll is the only call without one)",
        )
    })
}

/// Accepts until `shutdown`; finished handshakes come out as a stream for tonic.
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
        handshakes.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, shake(tls, tcp, address, admit, permit));
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
    permit: OwnedSemaphorePermit,
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
    Ok(Connection { tls: Box::new(tls), peer, _permit: permit })
}

/// An accepted connection; gives its place back when it is dropped.
pub struct Connection {
    tls: Box<TlsStream<TcpStream>>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
