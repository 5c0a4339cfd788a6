//! Drives one mesh connection until it ends: by GOAWAY and its last stream, by its last handle, because the peer is silent
//! or revoked, or because streams have outlived the peer's certificate by `maxStreamAge`. The task stays on the worker that
//! dialled; streams of other workers go through it.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use isthmus_certs::PeerError;
use isthmus_http2::StreamError;
use rand::RngExt as _;
use tokio::time::Instant;

use super::dial::{self, Wire};
use super::peers::{Link, Peer};
use super::{ConnectError, Pool};
use crate::http::keepalive::{Event, Keepalive};
use crate::state::outlived::outlived;
use crate::telemetry::MeshSide;
use crate::tls::HandshakeError;

/// A connection that was lost is made anew after at most this, apart from others who lost the same peer.
const RECONNECT_WITHIN: Duration = Duration::from_millis(500);

/// A link that holds so much between a ping and its pong is long and full. Bytes and not time: a busy process takes longer
/// over a pong than many links do.
const LONG: u64 = 1 << 20;

pub(super) fn spawn<G: 'static>(pool: &Rc<Pool>, peer: &Arc<Peer>, link: Arc<Link>, wire: Wire, open: G) {
    tokio::task::spawn_local(run(Rc::downgrade(pool), Arc::clone(peer), link, wire, open));
}

pub(super) async fn run<G>(pool: Weak<Pool>, peer: Arc<Peer>, link: Arc<Link>, mut wire: Wire, open: G) {
    let mut keepalive = Keepalive::new(wire.pings(), link.last_read.clone());
    let watch = pool.upgrade().map(|pool| Arc::clone(&pool.peers.revoked));
    let mut revoked = watch.map(|watch| watch.when(&link.identity));
    let mut outlived = pool.upgrade().map(|pool| {
        let (state, own) = (Arc::clone(&pool.peers.state), Arc::clone(&pool.peers.identity));
        Box::pin(outlived(state, own, link.identity.not_after.as_secs()))
    });
    let ended = poll_fn(|cx| {
        // Its streams end with the connection.
        if revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(End::Revoked);
        }
        if outlived.as_mut().is_some_and(|outlived| outlived.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(End::Outlived);
        }
        loop {
            if let Poll::Ready(ended) = wire.poll(cx) {
                return Poll::Ready(End::Of(ended));
            }
            match keepalive.poll(cx, || link.busy.load(Ordering::Relaxed) > 0) {
                Poll::Ready(Event::Grow(window)) => {
                    link.note_long();
                    wire.grow(window.stream, window.connection);
                }
                Poll::Ready(Event::Pong { held }) if held >= LONG => link.note_long(),
                Poll::Ready(Event::Pong { .. }) => {}
                Poll::Ready(Event::Dead) => return Poll::Ready(End::Silent),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    say(&peer, &link, &ended);
    let was_in_use = peer.remove(&link);
    drop(open);
    let Some(pool) = pool.upgrade() else { return };
    if let Some(event) = ended.event() {
        pool.metrics.mesh_event(event);
    }
    if let Some(refused) = ended.refused() {
        // It came after our side of the handshake was done (RFC 8446, 4.4.2.4), and is one that failed all the same.
        pool.metrics.mesh_handshake_failed(MeshSide::Client, refused.word());
        let refused = HandshakeError::Peer(refused);
        dial::note_failure(&peer, &ConnectError::Handshake(peer.key.address, Arc::new(refused)));
        pool.peers.tell();
    } else if was_in_use {
        peer.lock().retry_at = Some(Instant::now() + RECONNECT_WITHIN.mul_f64(rand::rng().random_range(0.0..1.0)));
        pool.peers.tell();
    }
}

/// How a connection ended.
enum End {
    Of(Result<(), StreamError>),
    Silent,
    Revoked,
    Outlived,
}

impl End {
    /// The word of the metric, where it was not the ordinary end.
    fn event(&self) -> Option<&'static str> {
        match self {
            End::Of(_) => None,
            End::Silent => Some("peer-silent"),
            End::Revoked => Some("peer-revoked"),
            End::Outlived => Some("outlived-certificate"),
        }
    }

    /// The peer did not take our certificate.
    fn refused(&self) -> Option<PeerError> {
        match self {
            End::Of(Err(error)) => PeerError::from_text(&error.to_string()),
            End::Of(Ok(())) | End::Silent | End::Revoked | End::Outlived => None,
        }
    }
}

fn say(peer: &Peer, link: &Link, ended: &End) {
    let (address, id) = (peer.key.address, &link.identity.id);
    match ended {
        End::Of(Ok(())) => {}
        End::Of(Err(error)) => match ended.refused() {
            Some(refused) => {
                tracing::info!(reason = refused.word(), peer = %address, callee = %id, "no mesh connection to {address}: {refused}");
            }
            None => tracing::debug!(peer = %address, "mesh connection ended: {error}"),
        },
        End::Revoked => tracing::warn!(peer = %address, %id, "mesh connection ended: revoked"),
        End::Silent => tracing::warn!(peer = %address, "mesh connection given up: the peer answers no ping"),
        End::Outlived => tracing::info!(
            peer = %address, %id,
            "mesh connection ended: its streams have outlived the peer's certificate by maxStreamAge"
        ),
    }
}
