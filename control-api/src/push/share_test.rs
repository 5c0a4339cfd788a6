//! Three control planes, as three registries; what passes between them is what the store would carry.

use super::*;
use crate::index::Changed;
use crate::ledger::Committed;
use crate::push::registry::Progress;
use isthmus_certs::PeerIdentity;
use isthmus_proto::model::{ResourceKey, ServiceName};
use std::collections::BTreeSet;

fn peer() -> PeerIdentity {
    crate::push::registry_test::peer()
}

fn orders() -> BTreeSet<ResourceKey> {
    [ResourceKey::Service(ServiceName::new("shop", "orders").unwrap())].into()
}

fn commit(revision: u64) -> Committed {
    let changed = Arc::new(Changed { keys: orders(), ..Changed::default() });
    Committed { revision, turn: revision, at: Instant::now(), changed, touched: Arc::default() }
}

fn moment() -> Moment {
    Moment { at: Instant::now(), unix_ms: 1_000_000 }
}

/// What `from` tells, as the others read it.
fn tell(from: &Registry, to: &Registry, replica: &str) {
    let told: Told =
        pieces(from.share(moment())).into_iter().map(|(p, v)| ((replica.to_string(), p), Arc::new(v))).collect();
    to.hear(heard(&told));
}

#[tokio::test(start_paused = true)]
async fn a_replica_answers_for_the_proxies_of_another() {
    let (here, there) = (Registry::default(), Registry::default());
    for registry in [&here, &there] {
        registry.publish(5, 1, None);
    }
    let mine = here.arrive("shop/a", "1.0", &peer(), 10);
    mine.sent(5, 1, orders());
    mine.acked(5, 11);
    let theirs = there.arrive("shop/b", "1.0", &peer(), 10);
    theirs.sent(5, 1, orders());
    theirs.acked(5, 12);
    tell(&there, &here, "c2");
    let all = here.everywhere(1_000_000);
    let who: Vec<_> = all.iter().map(|(name, (replica, proxy))| (&**name, replica.as_deref(), proxy.acked)).collect();
    assert_eq!(who, [("shop/a", None, 5), ("shop/b", Some("c2"), 5)]);
    assert_eq!(here.connected_workloads(), ["shop/a".to_string(), "shop/b".to_string()].into());

    // A commit that concerns both: not before the other one has said so is it in force there.
    here.publish(6, 2, Some(&[commit(6)]));
    mine.sent(6, 2, orders());
    mine.acked(6, 13);
    let (progress, silent) = here.progress_everywhere(&commit(6), 1_000_000);
    assert_eq!((progress.len(), silent), (1, vec!["c2".to_string()]));
    there.publish(6, 2, Some(&[commit(6)]));
    tell(&there, &here, "c2");
    let (progress, silent) = here.progress_everywhere(&commit(6), 1_000_000);
    let of_b = |progress: &[(String, Progress)]| progress.iter().find(|(name, _)| name == "shop/b").unwrap().1.clone();
    assert_eq!((progress.len(), of_b(&progress), silent), (2, Progress::Waiting, vec![]));
    theirs.sent(6, 2, orders());
    theirs.nacked(6, "no".to_string(), 14);
    tell(&there, &here, "c2");
    assert_eq!(of_b(&here.progress_everywhere(&commit(6), 1_000_000).0), Progress::Refused("no".to_string()));
    theirs.acked(6, 15);
    tell(&there, &here, "c2");
    assert_eq!(of_b(&here.progress_everywhere(&commit(6), 1_000_000).0), Progress::Acknowledged);

    // One that concerns nobody there: what they hold is the present, though no row was written again.
    let before = pieces(there.share(moment()));
    there.publish(7, 3, Some(&[]));
    let after = pieces(there.share(moment()));
    assert_eq!(differing(&before, &after), [(REVISION.to_string(), Some(7.into()))]);
    tell(&there, &here, "c2");
    assert_eq!(here.everywhere(1_000_000)["shop/b"].1.acked, 7);
    let nobody = Committed { changed: Arc::default(), ..commit(7) };
    assert_eq!(here.progress_everywhere(&nobody, 1_000_000), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn who_moved_from_one_to_the_other_is_told_once_and_where_it_is() {
    let (here, there) = (Registry::default(), Registry::default());
    let was_here = here.arrive("shop/a", "1.0", &peer(), 10);
    drop(was_here);
    let seat = there.arrive("shop/a", "1.0", &peer(), 20);
    seat.health(Some(&isthmus_proto::discovery::v1::Health { ready: false, reason: "starting".to_string() }));
    tell(&there, &here, "c2");
    let all = here.everywhere(1_000_000);
    assert_eq!((all.len(), all["shop/a"].0.as_deref(), all["shop/a"].1.connected), (1, Some("c2"), true));
    assert_eq!(here.unready_anywhere(), ["shop/a".to_string()].into());
    // Its control plane is gone, and with it all that it told.
    here.hear(Elsewhere::default());
    assert!(here.connected_workloads().is_empty() && here.everywhere(0).len() == 1);
}

#[tokio::test(start_paused = true)]
async fn who_uses_what_and_how_it_is_found_is_added_up_over_all() {
    let (here, there) = (Registry::default(), Registry::default());
    let name: ServiceName = "shop/orders".parse().unwrap();
    let found = |ip: &str, passes, for_ms| isthmus_proto::discovery::v1::ProbedEndpoint {
        service: name.to_string(),
        ip: ip.to_string(),
        port: 80,
        passes,
        for_ms,
        reason: if passes { String::new() } else { "refused".to_string() },
    };
    let probed = |endpoints| isthmus_proto::discovery::v1::Probed { endpoints };
    let mine = here.arrive("shop/a", "1.0", &peer(), 10);
    let theirs = there.arrive("shop/b", "1.0", &peer(), 10);
    for seat in [&mine, &theirs] {
        seat.sent(5, 1, orders());
    }
    mine.probed(&probed(vec![found("10.0.0.1", true, 10), found("10.0.0.2", false, 10)]), 1_000);
    theirs.probed(&probed(vec![found("10.0.0.2", false, 500), found("10.0.0.3", true, 0)]), 1_000);
    assert_eq!((here.users(&name), here.use_of(&name).found.len()), (1, 2));
    tell(&there, &here, "c2");
    let all = here.use_of(&name);
    assert_eq!((here.users(&name), all.users), (2, 2));
    let seen: Vec<_> = all.found.iter().map(|found| (found.at.to_string(), found.up, found.down)).collect();
    assert_eq!(
        seen,
        [("10.0.0.1:80".to_string(), 1, 0), ("10.0.0.2:80".to_string(), 0, 2), ("10.0.0.3:80".to_string(), 1, 0)]
    );
    let by: Vec<_> = all.found[1].down_by.iter().map(|by| (by.workload.as_str(), by.since_unix_ms)).collect();
    assert_eq!(by, [("shop/b", 500), ("shop/a", 990)], "the first one first");
    // Nothing has changed: nothing is told again. And an older control plane reads no proxies in what it does not know.
    let told = pieces(there.share(moment()));
    assert!(differing(&told, &pieces(there.share(moment()))).is_empty());
    let (_, uses) = told.iter().find(|(piece, _)| piece.starts_with(USES)).unwrap();
    assert_eq!(rows(uses).count(), 0);
    assert!(read_uses(&serde_json::json!({ "shop/x": 7, "shop/y": { "users": 3, "later": {} } })).len() == 1);
    drop(theirs);
    tell(&there, &here, "c2");
    assert_eq!((here.users(&name), here.use_of(&name).found.len()), (1, 2), "who is gone says nothing any more");
}

#[test]
fn what_cannot_be_read_is_left_out_alone() {
    let piece =
        serde_json::json!([{ "workload": "shop/a", "new": {} }, { "workload": 7 }, "x", { "workload": "shop/b" }]);
    let names: Vec<String> = rows(&piece).map(|row| row.workload).collect();
    assert_eq!(names, ["shop/a", "shop/b"]);
    assert_eq!(rows(&Value::Null).count(), 0);
}
