//! A proxy that is started while no control plane can be reached.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::discovery::v1::proxy_message::Message;
use isthmus_proto::model::ResourceKey;
use tokio::time::{Instant, sleep, timeout};

use super::control_test::{HOUR, Proxy, delta, destination, inbound, mesh, plain_workload, proxy, proxy_by, settings};
use super::fake_test::{ControlPlane, Session};
use super::*;
use crate::state::Destination;
use crate::state::standing::{Facts, Kept, Serving};

fn view() -> Vec<wire::Resource> {
    vec![mesh(), inbound("shop/orders"), plain_workload("10.10.1.1")]
}

pub(super) async fn until(proxy: &Proxy, what: impl Fn(&Facts) -> bool) -> Facts {
    for _ in 0..60_000 {
        let facts = proxy.standing.facts();
        if what(&facts) {
            return facts;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 minutes: {:?}", proxy.standing.facts());
}

async fn sync(control: &mut ControlPlane, version: u64) -> Session {
    let mut session = control.session().await;
    session.hello().await;
    session.welcome(control.clock.as_ref()).await;
    session.delta(control.signed(delta(version, view(), true))).await;
    assert_eq!(session.hear().await, Message::Ack(wire::Ack { version }));
    session
}

/// A proxy lives, has version 6 on disk, and ends.
pub(super) async fn earlier_life(control: &mut ControlPlane, dir: &Path) {
    let first = proxy(control, settings(control, Some(dir.to_owned())));
    let _session = sync(control, 6).await;
    until(&first, |facts| facts.kept == Kept::Version(6)).await;
    first.end().await;
}

pub(super) fn again(control: &ControlPlane, dir: &Path) -> Settings {
    Settings { token: None, ..settings(control, Some(dir.to_owned())) }
}

#[tokio::test(start_paused = true)]
async fn it_serves_within_a_second_says_so_and_stops_when_the_snapshot_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(100 * HOUR);
    earlier_life(&mut control, dir.path()).await;
    let began = Instant::now();
    let alone = proxy_by(&control, again(&control, dir.path()), ControlPlane::no_way());
    let facts = until(&alone, |facts| matches!(facts.serving, Serving::LastGood { .. })).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let mesh = alone.state.snapshot();
    assert_eq!(mesh.version, 6);
    assert!(matches!(destination(&mesh, "10.10.1.1"), Destination::Workload { .. }));
    assert!(matches!(destination(&mesh, "10.10.1.2"), Destination::Pending), "nobody says what it is");
    let warned = facts.warnings(alone.identities.current().as_deref(), control.clock.now_ms());
    assert!(warned[0].contains("serving the last good snapshot"), "{warned:?}");
    let alone_for = facts.alone(alone.identities.current().as_deref()).unwrap();
    assert!(alone_for.until_ms <= control.clock.now_ms() + 24 * 3_600_000, "the snapshot ends before the certificate");
    sleep(23 * HOUR).await;
    assert!(alone.state.snapshot().is_ready());
    sleep(HOUR + Duration::from_secs(20)).await;
    assert_eq!(alone.standing.facts().serving, Serving::TooOld);
    assert!(!alone.state.snapshot().is_ready(), "everything is refused");
    alone.end().await;
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_nobody_who_is_silent_and_asks_for_what_it_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(HOUR);
    earlier_life(&mut control, dir.path()).await;
    let began = Instant::now();
    let second = proxy(&control, again(&control, dir.path()));
    let mut session = control.session().await;
    let hello = session.hello().await;
    assert_eq!(hello.subscriptions, [ResourceKey::Address("10.10.1.1".parse().unwrap()).into()]);
    // A control plane that takes the stream and says nothing.
    until(&second, |facts| matches!(facts.serving, Serving::LastGood { .. })).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    session.welcome(control.clock.as_ref()).await;
    session.delta(control.signed(delta(9, vec![mesh(), inbound("shop/orders")], true))).await;
    until(&second, |facts| facts.serving == Serving::Live && facts.kept == Kept::Version(9)).await;
    assert!(matches!(destination(&second.state.snapshot(), "10.10.1.1"), Destination::Absent));
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_is_there_is_quicker() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(HOUR);
    earlier_life(&mut control, dir.path()).await;
    let second = proxy(&control, again(&control, dir.path()));
    let mut published = second.state.subscribe();
    let _session = sync(&mut control, 8).await;
    published.changed().await.unwrap();
    assert_eq!((second.state.snapshot().version, *published.borrow()), (8, 1), "nothing older was in force");
    sleep(Duration::from_secs(5)).await;
    assert_eq!((second.state.snapshot().version, *published.borrow()), (8, 1));
    second.end().await;
}

/// What a start without a control plane makes of a state directory.
fn refused(settings: Settings, control: &ControlPlane) -> Option<String> {
    let start = Start::prepare(settings, Arc::clone(&control.clock)).unwrap();
    let facts = start.standing().facts();
    assert_eq!(start.take_last_good().is_none(), facts.last_good_refused.is_some());
    facts.last_good_refused
}

#[tokio::test(start_paused = true)]
async fn a_copied_an_older_a_corrupted_and_a_stale_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(100 * HOUR);
    earlier_life(&mut control, dir.path()).await;
    assert_eq!(refused(again(&control, dir.path()), &control), None);
    let other_machine = Settings { machine_id: b"a clone".to_vec(), ..again(&control, dir.path()) };
    assert!(refused(other_machine, &control).unwrap().contains("another machine"));
    let (file, seen) = (dir.path().join("last-good"), dir.path().join("seen.json"));
    let older = std::fs::read(&file).unwrap();

    let second = proxy(&control, again(&control, dir.path()));
    let _session = sync(&mut control, 7).await;
    until(&second, |facts| facts.kept == Kept::Version(7)).await;
    second.end().await;
    let newer = std::fs::read(&file).unwrap();
    std::fs::write(&file, &older).unwrap();
    assert!(refused(again(&control, dir.path()), &control).unwrap().contains("version 6, and 7 was in force"));
    let mut corrupted = newer.clone();
    let middle = corrupted.len() / 2;
    corrupted[middle] ^= 1;
    for bytes in [&corrupted[..], &newer[..middle], b""] {
        std::fs::write(&file, bytes).unwrap();
        assert!(refused(again(&control, dir.path()), &control).is_some());
    }
    std::fs::write(&file, &newer).unwrap();
    std::fs::write(&seen, "{").unwrap();
    assert!(refused(again(&control, dir.path()), &control).unwrap().contains("seen.json is damaged"));
    std::fs::write(&seen, "{\"version\": 7}").unwrap();
    assert_eq!(refused(again(&control, dir.path()), &control), None);
    sleep(25 * HOUR).await;
    assert!(refused(again(&control, dir.path()), &control).unwrap().contains("maxStale is 1 d 0 h"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_or_was_not_signed_is_said_and_costs_no_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(HOUR);
    let running = proxy(&control, settings(&control, Some(dir.path().join("state"))));
    let mut session = control.session().await;
    session.hello().await;
    session.welcome(control.clock.as_ref()).await;
    session.delta(delta(6, view(), true)).await;
    let facts = until(&running, |facts| matches!(facts.kept, Kept::Failed(_))).await;
    assert!(matches!(&facts.kept, Kept::Failed(why) if why.contains("does not sign")), "{facts:?}");
    assert!(running.state.snapshot().is_ready());
    // A directory in the file's place: nothing can be renamed onto it.
    std::fs::create_dir(dir.path().join("state/last-good")).unwrap();
    session.delta(control.signed(delta(7, view(), false))).await;
    let facts = until(&running, |facts| matches!(&facts.kept, Kept::Failed(why) if !why.contains("sign"))).await;
    assert_eq!((running.state.snapshot().version, facts.serving), (7, Serving::Live));
    std::fs::remove_dir(dir.path().join("state/last-good")).unwrap();
    until(&running, |facts| facts.kept == Kept::Version(7)).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_to_be_kept_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(HOUR);
    let off = Settings { last_good: None, ..settings(&control, Some(dir.path().to_owned())) };
    let running = proxy(&control, off);
    let _session = sync(&mut control, 6).await;
    sleep(Duration::from_secs(30)).await;
    assert!(!dir.path().join("last-good").exists());
    assert!(dir.path().join("identity.pem").exists());
    running.end().await;
}

/// Renewals are sped up when another root issues, and each proxy has its own moment.
#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_root_than_the_issuing_one_is_renewed_soon() {
    let mut control = ControlPlane::start(100 * HOUR);
    let running = proxy(&control, settings(&control, None));
    let session = sync(&mut control, 6).await;
    let before = running.identities.current().unwrap().serial;
    let mut told = mesh();
    let Some(wire::resource::Body::Mesh(body)) = &mut told.body else { panic!("a mesh") };
    body.upkeep =
        Some(wire::Upkeep { issuing_root_sha256: vec![9; 32], renew_within_seconds: 60, max_stream_age_seconds: None });
    session.delta(delta(7, vec![told], false)).await;
    let renewed = async {
        while running.identities.current().unwrap().serial == before {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(62), renewed).await.expect("renewed within the time that was given");
    // The control plane issued from the old root all the same: it is not asked again and again.
    let after = running.identities.current().unwrap().serial;
    sleep(HOUR).await;
    assert_eq!(running.identities.current().unwrap().serial, after);
    running.end().await;
}
