//! A mesh connection, accepted: TLS, the peer's identity, then HTTP/2 whose every stream is authorized for itself and runs
//! as its own task on this worker. New streams end with the peer's certificate or with the proxy; those under way finish.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Method, Request};
use isthmus_certs::PeerIdentity;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Inbound, request, tunnel};
use crate::http::server::{Http2Settings, answer, stopped};
use crate::tcp;
use crate::telemetry::MeshSide;
use crate::tls::{self, LastRead, Stamped, mesh::HANDSHAKE_DEADLINE};

/// How often the end of the peer's certificate is looked at anew: our clock may be set while we wait.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// What all streams of one mesh connection have in common.
pub(super) struct Peer {
    pub(super) identity: PeerIdentity,
    pub(super) source: SocketAddr,
    /// The own address that the peer dialled.
    pub(super) local: SocketAddr,
    pub(super) last_read: LastRead,
}

pub(super) async fn serve(inbound: &Rc<Inbound>, stream: TcpStream, source: SocketAddr) {
    tcp::prepare(&stream);
    let Ok(local) = stream.local_addr() else { return };
    let (stream, identity) = match tls::accept(stream, inbound.server_config.clone()).await {
        Ok(accepted) => accepted,
        Err(error) => {
            inbound.needs.metrics.mesh_handshake_failed(MeshSide::Server, error.word());
            tracing::info!(reason = error.word(), caller_address = %source, "no mesh connection: {error}");
            return;
        }
    };
    let last_read = stream.get_ref().0.last_read();
    let peer = Rc::new(Peer { identity, source, local, last_read });
    let handshake = Http2Settings::MESH.server().handshake(stream);
    let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await else {
        inbound.needs.metrics.mesh_handshake_failed(MeshSide::Server, "not-http2");
        return;
    };
    let _open = inbound.needs.metrics.mesh_connection(MeshSide::Server);
    serve_streams(inbound, connection, &peer).await;
}

async fn serve_streams(inbound: &Rc<Inbound>, mut connection: Connection<TlsStream<Stamped>, Bytes>, peer: &Rc<Peer>) {
    let mut draining = false;
    let drain = drain(inbound, peer);
    tokio::pin!(drain);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            () = drain.as_mut(), if !draining => {
                draining = true;
                // GOAWAY, a ping, then the last GOAWAY: streams that cross it on the wire are still taken.
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => {
                let came = peer.last_read.get();
                let stream = serve_stream(Rc::clone(inbound), Rc::clone(peer), came, request, respond);
                tokio::task::spawn_local(stream);
            }
            Some(Err(error)) => {
                tracing::debug!(caller = %peer.identity.id, "mesh connection ended: {error}");
                return;
            }
            None => return,
        }
    }
}

/// A plain CONNECT is always a tunnel; everything else is a request.
async fn serve_stream(
    inbound: Rc<Inbound>,
    peer: Rc<Peer>,
    came: Instant,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let _open = inbound.needs.metrics.stream(MeshSide::Server);
    if request.method() == Method::CONNECT {
        tunnel::serve(&inbound, &peer, request, respond).await;
    } else {
        answer(request, respond, |request| request::from_mesh(&inbound, &peer, came, request)).await;
    }
}

/// Resolves when no new stream should come: the proxy stops, or the peer's certificate has ended.
async fn drain(inbound: &Inbound, peer: &Peer) {
    let mut stop = inbound.needs.stop.clone();
    let not_after = peer.identity.not_after.as_secs();
    let expired = async {
        loop {
            let now = inbound.needs.identity.now().as_secs();
            if now > not_after {
                return;
            }
            // `not_after` is the last second in which the certificate holds.
            let left = Duration::from_secs(not_after - now + 1);
            tokio::time::sleep(left.min(CLOCK_CHECK)).await;
        }
    };
    tokio::select! {
        () = expired => {}
        () = stopped(&mut stop) => {}
    }
}
