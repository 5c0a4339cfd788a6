//! The proxies' port after TLS: HTTP/2 by the codec that sidecars speak among themselves, and each call to the services that
//! tonic's router holds ([`super::call`]). There are thousands of these connections, idle nearly all of the time. tonic's
//! own server, which operators get, keeps 28 KiB of buffers for each as long as it is open; this keeps none.
//!
//! Refused: who is silent after TLS, who answers no ping and takes nothing either, and what the codec refuses (streams
//! beyond [`SETTINGS`], heads that are too large, floods of every kind).

use super::{Connection, Peer, call};
use isthmus_http2::{Http2Settings, Pings, RecvStream, SendResponse, StreamError, Traffic, accept};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::http::Request;
use tonic::service::Routes;

#[cfg(test)]
#[path = "wire_test.rs"]
mod wire_test;

/// A proxy uses one stream and a call now and then, and says little. What is longer (a hello with thousands of
/// subscriptions, a report) comes a window at a time.
const SETTINGS: Http2Settings = Http2Settings {
    max_streams: 64,
    max_header_bytes: 16 << 10,
    stream_window: 65_535,
    connection_window: 256 << 10,
    max_frame: 16 << 10,
    pending_resets: 20,
    // Of a proxy that reads slowly; thousands may.
    backlog: 64 << 10,
    frugal: true,
};
const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// A peer that answers no ping for this long is gone: its host died, or the link did.
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// On a slow link the answer stands behind what is under way: where that moves, so long is waited.
const MOVES_FOR: Duration = Duration::from_secs(60);
/// A ping's own bytes, which show nothing.
const PING: u64 = 17;

/// Serves the connections that come until `shutdown`; then until all have ended. Whoever drops this ends them.
pub(crate) async fn serve(
    mut incoming: ReceiverStream<io::Result<Connection>>,
    routes: Routes,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            next = incoming.next() => match next {
                Some(Ok(connection)) => {
                    let peer = connection.peer.clone();
                    open.spawn(serve_one(connection, peer, routes.clone(), tasks.clone(), shutdown.clone()));
                }
                Some(Err(_)) => {}
                None => break,
            },
            Some(_) = open.join_next() => {}
        }
    }
    drop(incoming);
    while open.join_next().await.is_some() {}
}

/// One connection, from its greeting to its end.
async fn serve_one<S>(io: S, peer: Peer, routes: Routes, tasks: TaskTracker, shutdown: CancellationToken)
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    // Boxed: what only its beginning needs is gone when it waits.
    let greeted = Box::pin(async {
        tokio::select! {
            greeted = tokio::time::timeout(GREETING_WITHIN, accept(io, SETTINGS)) => greeted.ok()?.ok(),
            () = shutdown.cancelled() => None,
        }
    });
    let Some(mut wire) = greeted.await else {
        tracing::info!(address = %peer.address, "connection refused: no HTTP/2 came within 10 s");
        return;
    };
    let mut alive = Alive::new(wire.pings());
    let (mut stopping, mut is_stopping) = (pin!(shutdown.cancelled()), false);
    loop {
        let next = tokio::select! {
            // The stop first: a peer that asks without end does not hold it up.
            biased;
            () = stopping.as_mut(), if !is_stopping => {
                is_stopping = true;
                // GOAWAY; the streams that are open end by themselves.
                wire.drain();
                continue;
            }
            next = poll_fn(|cx| poll_next(&mut wire, &mut alive, cx)) => next,
        };
        match next {
            Next::Call(call) => {
                let (request, respond) = *call;
                tasks.spawn(call::answer(routes.clone(), peer.clone(), request, respond));
            }
            Next::End(None) => return,
            Next::End(Some(error)) => {
                tracing::debug!(address = %peer.address, %error, "connection ended");
                return;
            }
            Next::Gone => {
                tracing::info!(address = %peer.address, "connection given up: the peer answers no ping");
                return;
            }
        }
    }
}

enum Next {
    /// Boxed: room for it would be kept while nothing comes.
    Call(Box<(Request<RecvStream>, SendResponse)>),
    End(Option<StreamError>),
    Gone,
}

fn poll_next<S>(wire: &mut isthmus_http2::Connection<S>, alive: &mut Alive, cx: &mut Context<'_>) -> Poll<Next>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
{
    match wire.poll_accept(cx) {
        Poll::Ready(Some(Ok(call))) => return Poll::Ready(Next::Call(Box::new(call))),
        Poll::Ready(Some(Err(error))) => return Poll::Ready(Next::End(Some(error))),
        Poll::Ready(None) => return Poll::Ready(Next::End(None)),
        Poll::Pending => {}
    }
    // At its end as well: what is left to say is not waited for longer than any answer.
    alive.poll(wire.traffic(), cx).map(|()| Next::Gone)
}

/// Whether somebody is at the other end.
struct Alive {
    pings: Pings,
    look: Pin<Box<Sleep>>,
    /// Nothing has come since the ping.
    is_asked: bool,
    seen: Traffic,
    heard: Instant,
}

impl Alive {
    fn new(pings: Pings) -> Self {
        let (look, heard) = (Box::pin(tokio::time::sleep(PING_EVERY)), Instant::now());
        Alive { pings, look, is_asked: false, seen: Traffic::default(), heard }
    }

    /// Ready when nobody is.
    fn poll(&mut self, now_at: Traffic, cx: &mut Context<'_>) -> Poll<()> {
        if now_at.read != self.seen.read {
            (self.heard, self.is_asked, self.seen) = (Instant::now(), false, now_at);
        }
        loop {
            ready!(self.look.as_mut().poll(cx));
            let now = Instant::now();
            let next = if now < self.heard + PING_EVERY {
                self.heard + PING_EVERY
            } else if !self.is_asked {
                self.pings.take_answer();
                // Wakes this task: it leaves now.
                self.pings.send();
                (self.is_asked, self.seen) = (true, now_at);
                now + PONG_WITHIN
            } else if now_at.written > self.seen.written + PING && now < self.heard + MOVES_FOR {
                self.seen = now_at;
                now + PONG_WITHIN
            } else {
                return Poll::Ready(());
            };
            self.look.as_mut().reset(next);
        }
    }
}
