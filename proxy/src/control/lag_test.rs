//! How long what is in force may not have been the control plane's latest word, as the metric has it.

use std::time::Duration;

use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::proxy_message::Message;
use tokio::time::sleep;

use super::control_test::{HOUR, Proxy, delta, inbound, mesh, plain_workload, proxy, proxy_by, settings, synced};
use super::fake_test::ControlPlane;
use super::fallback_test::{again, earlier_life, until};
use crate::state::standing::Serving;

fn lag(proxy: &Proxy) -> f64 {
    let page = proxy.metrics.render();
    let line = page.lines().find_map(|line| line.strip_prefix("isthmus_control_lag_seconds "));
    line.expect("it is always there").parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_is_none_while_all_is_in_force_and_grows_from_what_is_not() {
    let mut control = ControlPlane::start(HOUR);
    let proxy = proxy(&control, settings(&control, None));
    let (mut session, _) = synced(&mut control, 6).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(lag(&proxy), 0.0, "an old snapshot that is the latest is no lag");
    let mut future = plain_workload("10.10.1.1");
    future.requires = vec!["weather/v9".into()];
    session.delta(delta(7, vec![future], false)).await;
    assert!(matches!(session.hear().await, Message::Nack(_)));
    sleep(Duration::from_secs(5)).await;
    assert!((5.0..6.0).contains(&lag(&proxy)), "{}", lag(&proxy));
    session.delta(delta(8, vec![plain_workload("10.10.1.1")], false)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 8 }));
    assert_eq!(lag(&proxy), 0.0);

    drop(session);
    let mut session = control.session().await;
    session.hello().await;
    session.welcome(control.clock.as_ref()).await;
    let before = lag(&proxy);
    sleep(Duration::from_secs(3)).await;
    assert!((3.0..4.0).contains(&(lag(&proxy) - before)), "connected is not yet current: {before} {}", lag(&proxy));
    session.delta(delta(9, vec![mesh(), inbound("shop/orders")], true)).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version: 9 }));
    assert_eq!(lag(&proxy), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_from_disk_is_as_old_as_its_signature() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(100 * HOUR);
    earlier_life(&mut control, dir.path()).await;
    sleep(2 * HOUR).await;
    let alone = proxy_by(&control, again(&control, dir.path()), ControlPlane::no_way());
    until(&alone, |facts| matches!(facts.serving, Serving::LastGood { .. })).await;
    let (least, most) = (2.0 * 3_600.0, 2.0 * 3_600.0 + 60.0);
    assert!((least..most).contains(&lag(&alone)), "{}", lag(&alone));
    alone.end().await;
}
