//! Clocks that go wrong while a stream is open: real TLS and gRPC, paused time.

use std::sync::atomic::{AtomicI64, Ordering};

use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::proxy_message::Message;
use tokio_util::sync::CancellationToken;

use super::super::control_test::{HOUR, delta, inbound, mesh, settings};
use super::super::fake_test::{ControlPlane, Session};
use super::super::{Start, Upward, run_with};
use super::*;
use crate::flows::{Collector, Decisions};
use crate::state::State;

const SKEW_MS: i64 = 1_023_000;

/// A clock that somebody sets.
struct Set(Arc<dyn Clock>, AtomicI64);

impl Clock for Set {
    fn now_ms(&self) -> i64 {
        self.0.now_ms() + self.1.load(Ordering::Relaxed)
    }
}

/// A proxy with a stream that is in sync.
async fn synced(control: &mut ControlPlane) -> (Session, Arc<Set>, Metrics) {
    let clock = Arc::new(Set(Arc::clone(&control.clock), AtomicI64::new(0)));
    let shared: Arc<dyn Clock> = Arc::<Set>::clone(&clock);
    let start = Start::prepare(settings(control, None), shared).unwrap();
    let ((state, demands), metrics) = (State::new(), Metrics::new(1));
    let (flows, decisions) = (Collector::new(0).1, Decisions::new());
    let told = super::super::control_test::nothing_told();
    let upward = Upward { state, demands, metrics: metrics.clone(), flows, decisions, kept: None, told };
    tokio::spawn(run_with(start, control.dialer(), upward, CancellationToken::new()));
    let mut session = control.session().await;
    session.hello().await;
    session.welcome(control.clock.as_ref()).await;
    session.delta(delta(6, vec![mesh(), inbound("shop/orders")], true)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 6 }));
    (session, clock, metrics)
}

/// Until the metric says so, give or take a second.
async fn shows(metrics: &Metrics, seconds: f64) {
    let mut page = String::new();
    for _ in 0..100 {
        page = metrics.render();
        let shown = page.lines().find_map(|line| line.strip_prefix("isthmus_clock_skew_seconds "));
        if shown.is_some_and(|shown| (shown.parse::<f64>().unwrap() - seconds).abs() < 1.0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not {seconds} s:\n{page}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_while_a_stream_is_open_is_compared_within_seconds() {
    let mut control = ControlPlane::start(24 * HOUR);
    let (mut session, clock, metrics) = synced(&mut control).await;
    for (offset, shown) in [(SKEW_MS, 1_023.0), (0, 0.0), (-SKEW_MS, -1_023.0)] {
        clock.1.store(offset, Ordering::Relaxed);
        let set = Instant::now();
        let theirs = session.hear_clock().await;
        assert!(set.elapsed() <= 2 * LOOK_EVERY, "{:?}", set.elapsed());
        assert!((theirs - control.clock.now_ms() - offset).abs() < 100, "{theirs}");
        session.clock(control.clock.now_ms()).await;
        shows(&metrics, shown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_clocks_are_compared_every_minute_whichever_of_them_goes_wrong() {
    let mut control = ControlPlane::start(24 * HOUR);
    let (mut session, _clock, metrics) = synced(&mut control).await;
    let mut last = Instant::now();
    for behind_ms in [0, SKEW_MS, 0] {
        session.hear_clock().await;
        let between = last.elapsed();
        assert!(between >= COMPARE_EVERY - LOOK_EVERY && between <= COMPARE_EVERY + LOOK_EVERY, "{between:?}");
        last = Instant::now();
        session.clock(control.clock.now_ms() - behind_ms).await;
        shows(&metrics, behind_ms as f64 / 1_000.0).await;
    }
    // Who says what nobody asked for changes nothing.
    session.clock(0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    shows(&metrics, 0.0).await;
}
