//! Drives one mesh connection until it ends: by GOAWAY and its last stream, by its last handle, or because the peer is
//! silent or revoked. The task stays on the worker that dialled; streams of other workers go through it.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use super::Pool;
use super::dial::Wire;
use super::peers::{Link, Peer};
use crate::http::keepalive::{Event, Keepalive};

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
    let mut is_revoked = false;
    let ended = poll_fn(|cx| {
        if revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
            // Its streams end with the connection.
            is_revoked = true;
            return Poll::Ready(None);
        }
        loop {
            if let Poll::Ready(ended) = wire.poll(cx) {
                return Poll::Ready(Some(ended));
            }
            match keepalive.poll(cx, || link.busy.load(Ordering::Relaxed) > 0) {
                Poll::Ready(Event::Grow(window)) => {
                    link.note_long();
                    wire.grow(window.stream, window.connection);
                }
                Poll::Ready(Event::Pong { held }) if held >= LONG => link.note_long(),
                Poll::Ready(Event::Pong { .. }) => {}
                Poll::Ready(Event::Dead) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    let address = peer.key.address;
    match &ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(peer = %address, "mesh connection ended: {error}"),
        None if is_revoked => tracing::warn!(peer = %address, id = %link.identity.id, "mesh connection ended: revoked"),
        None => tracing::warn!(peer = %address, "mesh connection given up: the peer answers no ping"),
    }
    let was_in_use = peer.remove(&link);
    drop(open);
    let Some(pool) = pool.upgrade() else { return };
    if ended.is_none() {
        pool.metrics.mesh_event(if is_revoked { "peer-revoked" } else { "peer-silent" });
    }
    if was_in_use {
        peer.lock().retry_at = Some(Instant::now() + RECONNECT_WITHIN.mul_f64(rand::rng().random_range(0.0..1.0)));
        pool.peers.tell();
    }
}
