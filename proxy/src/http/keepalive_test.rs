//! A peer that is silent, slow, idle or fast, on paused time.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use isthmus_http2::{Connection, Http2Settings, SendRequest, connect};
use tokio::io::{BufReader, DuplexStream, duplex};
use tokio::time::{Instant, timeout};

use super::{Event, Keepalive, MOST_STREAM, Window};
use crate::tls::{LastRead, Stamped};

/// The h2 crate's: it answers pings, and nothing else is asked of it.
type Far = h2::server::Connection<DuplexStream, Bytes>;

struct Watched {
    wire: Connection<BufReader<Stamped<DuplexStream>>>,
    keepalive: Keepalive,
    traffic: LastRead,
    _sender: SendRequest,
}

impl Watched {
    /// A connection and its far end, both past the preface.
    async fn new() -> (Watched, Far) {
        let (near, far) = duplex(1 << 20);
        let near = Stamped::new(near);
        let traffic = near.last_read();
        let (sender, mut wire) = connect(BufReader::new(near), Http2Settings::MESH);
        let greeting = async {
            let waits = poll_fn(|cx| Poll::Ready(wire.poll(cx).is_pending())).await;
            assert!(waits);
            std::future::pending::<()>().await;
        };
        let server = tokio::select! {
            server = h2::server::handshake(far) => server.unwrap(),
            () = greeting => unreachable!(),
        };
        let keepalive = Keepalive::new(wire.pings(), traffic.clone());
        (Watched { wire, keepalive, traffic, _sender: sender }, server)
    }

    /// The next that is no pong.
    async fn event(&mut self, streams_open: bool) -> Event {
        poll_fn(|cx| {
            loop {
                assert!(self.wire.poll(cx).is_pending(), "the connection itself goes on");
                match self.keepalive.poll(cx, || streams_open) {
                    Poll::Ready(Event::Pong { .. }) => {}
                    other => return other,
                }
            }
        })
        .await
    }
}

async fn answer_pings(mut server: Far) {
    while server.accept().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_found_within_seconds_while_streams_are_open() {
    let (mut watched, _server) = Watched::new().await;
    let started = Instant::now();
    assert_eq!(watched.event(true).await, Event::Dead);
    assert!(started.elapsed() <= Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_three_times_a_minute_and_no_more() {
    let (mut watched, server) = Watched::new().await;
    let answering = tokio::spawn(answer_pings(server));
    let before = watched.traffic.bytes_written();
    assert!(timeout(Duration::from_secs(600), watched.event(false)).await.is_err(), "it lives");
    // A ping frame has 17 bytes.
    let pings = (watched.traffic.bytes_written() - before) / 17;
    assert!((25..=30).contains(&pings), "{pings} pings in ten minutes");
    answering.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_away_while_idle_is_found_within_half_a_minute() {
    let (mut watched, _server) = Watched::new().await;
    let started = Instant::now();
    assert_eq!(watched.event(false).await, Event::Dead);
    assert!(started.elapsed() <= Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_that_still_takes_bytes_is_not_dead() {
    let (mut watched, _server) = Watched::new().await;
    let traffic = watched.traffic.clone();
    let moving = tokio::spawn(async move {
        for _ in 0..120 {
            tokio::time::advance(Duration::from_secs(1)).await;
            traffic.note_written(1_000);
        }
    });
    let dead = timeout(Duration::from_secs(110), watched.event(true)).await;
    assert!(dead.is_err(), "the pong is behind other bytes, and those move");
    moving.abort();
    assert_eq!(watched.event(true).await, Event::Dead, "nothing moves any more");
}

#[tokio::test(start_paused = true)]
async fn windows_grow_while_the_link_holds_more_and_not_beyond_their_bound() {
    let (mut watched, server) = Watched::new().await;
    let _answering = tokio::spawn(answer_pings(server));
    let traffic = watched.traffic.clone();
    // A window's worth comes in each millisecond.
    let _sending = tokio::spawn(async move {
        loop {
            traffic.note_read(MOST_STREAM as usize);
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut grown = Vec::new();
    while let Ok(event) = timeout(Duration::from_secs(20), watched.event(true)).await {
        grown.push(event);
    }
    let mib = |stream: u32, connection: u32| Event::Grow(Window { stream: stream << 20, connection: connection << 20 });
    assert_eq!(grown, [mib(8, 32), mib(16, 32)]);
}

#[tokio::test(start_paused = true)]
async fn a_short_link_keeps_its_windows() {
    let (mut watched, server) = Watched::new().await;
    let _answering = tokio::spawn(answer_pings(server));
    let traffic = watched.traffic.clone();
    // Much comes, but little of it within one round trip.
    let _sending = tokio::spawn(async move {
        loop {
            traffic.note_read(100_000);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(timeout(Duration::from_secs(20), watched.event(true)).await.is_err());
    let mut idle = std::task::Context::from_waker(std::task::Waker::noop());
    assert_eq!(watched.keepalive.poll(&mut idle, || true), Poll::Pending);
}
