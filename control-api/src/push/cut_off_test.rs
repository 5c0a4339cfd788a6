use super::{FOR, TurnedAway};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn each_proxy_is_turned_away_until_it_has_had_time_to_find_another_control_plane() {
    let away = TurnedAway::default();
    assert!(!away.turns_while(false, "shop/web"));
    assert!(away.turns_while(true, "shop/web"));
    tokio::time::advance(FOR - Duration::from_millis(1)).await;
    assert!(away.turns_while(true, "shop/web"));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!away.turns_while(true, "shop/web"), "nobody else has taken it");
    // However long the store is lost: who comes for the first time is sent to the others first.
    tokio::time::advance(FOR * 100).await;
    assert!(away.turns_while(true, "shop/orders"));
    assert!(!away.turns_while(true, "shop/web"));
}

#[tokio::test(start_paused = true)]
async fn the_next_time_begins_anew() {
    let away = TurnedAway::default();
    assert!(away.turns_while(true, "shop/web"));
    tokio::time::advance(FOR).await;
    assert!(!away.turns_while(true, "shop/web"));
    assert!(!away.turns_while(false, "shop/orders"));
    assert!(away.turns_while(true, "shop/web"));
}
