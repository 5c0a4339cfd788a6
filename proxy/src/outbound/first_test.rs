use std::time::Duration;

use super::*;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 1], port))
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_expires_and_is_refreshed() {
    let verdicts = Verdicts::default();
    verdicts.learn(at(1), Speaker::Server);
    assert_eq!((verdicts.get(at(1)), verdicts.get(at(2))), (Some(Speaker::Server), None));
    tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
    verdicts.learn(at(1), Speaker::Client);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(verdicts.get(at(1)), Some(Speaker::Client));
    tokio::time::advance(REMEMBERED).await;
    assert_eq!(verdicts.get(at(1)), None);
}

#[tokio::test(start_paused = true)]
async fn the_memory_is_bounded_and_forgets_the_oldest() {
    let verdicts = Verdicts::default();
    for port in 1..=2_000 {
        verdicts.learn(at(port), Speaker::Server);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(verdicts.len(), MAX_REMEMBERED);
    assert_eq!((verdicts.get(at(1)), verdicts.get(at(2_000))), (None, Some(Speaker::Server)));
}
