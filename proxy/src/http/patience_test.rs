//! Waits on paused time; what callers see of them is proved by `inbound/http2_test.rs` and `inbound/pair_test.rs`.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::patience::{DEFAULT_LIMIT, Waits, limit};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_nothing_moved_for_its_limit_and_not_before() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let waits = Rc::new(Waits::default());
            let began = Instant::now();
            let moved = Rc::new(Cell::new(0));
            let moving = Rc::clone(&moved);
            tokio::task::spawn_local(async move {
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    moving.set(moving.get() + 1);
                }
            });
            let mut wait = waits.begin(LIMIT);
            poll_fn(|cx| wait.poll(cx, moved.get())).await;
            let took = began.elapsed().as_secs();
            // What moved is seen when the wait is woken, at the latest: never sooner than its limit after the last move.
            assert!((230..=262).contains(&took), "{took}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn waits_that_are_given_up_leave_nothing_and_new_ones_begin_anew() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let waits = Rc::new(Waits::default());
            for _ in 0..3 {
                let mut given_up: Vec<_> = (0..100).map(|_| waits.begin(LIMIT)).collect();
                poll_fn(|cx| {
                    assert!(given_up.iter_mut().all(|wait| wait.poll(cx, 0).is_pending()));
                    std::task::Poll::Ready(())
                })
                .await;
                drop(given_up);
                let began = Instant::now();
                let mut wait = waits.begin(LIMIT);
                poll_fn(|cx| wait.poll(cx, 0)).await;
                drop(wait);
                let took = began.elapsed().as_secs();
                assert!((30..=32).contains(&took), "{took}");
                // The task that counts has ended by then.
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        })
        .await;
}

#[test]
fn a_grpc_deadline_holds_where_the_service_says_nothing_and_may_shorten_what_it_says() {
    let asked = |timeout: Option<&str>| {
        let mut headers = HeaderMap::new();
        timeout.map(|timeout| headers.insert("grpc-timeout", timeout.parse().unwrap()));
        headers
    };
    let seconds = Duration::from_secs;
    assert_eq!(limit(None, &asked(None)), DEFAULT_LIMIT);
    assert_eq!(limit(None, &asked(Some("5S"))), seconds(6));
    assert_eq!(limit(None, &asked(Some("2H"))), seconds(7_201));
    assert_eq!(limit(None, &asked(Some("99999999H"))), seconds(86_400));
    assert_eq!(limit(Some(seconds(10)), &asked(Some("2H"))), seconds(10));
    assert_eq!(limit(Some(seconds(10)), &asked(Some("5000m"))), seconds(6));
    assert_eq!(limit(Some(seconds(10)), &asked(Some("soon"))), seconds(10));
}
