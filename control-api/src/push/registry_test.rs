//! How far a commit has got, as told by the proxies' answers.

use super::registry::{Progress, Registry};
use crate::index::Changed;
use crate::ledger::Committed;
use isthmus_certs::{PeerIdentity, Serial, SpiffeId};
use isthmus_proto::model::ResourceKey;
use rustls::pki_types::UnixTime;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn peer() -> PeerIdentity {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(100));
    let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").unwrap();
    PeerIdentity { id, serial: Serial::from_bytes(&[7]).unwrap(), not_before: at, not_after: at }
}

fn commit(revision: u64, workload: &str) -> Committed {
    let changed = Changed { inbound: [workload.to_string()].into(), ..Changed::default() };
    Committed {
        revision,
        turn: revision,
        at: tokio::time::Instant::now(),
        changed: Arc::new(changed),
        touched: Arc::default(),
    }
}

fn progress(registry: &Registry, revision: u64) -> Vec<Progress> {
    registry.progress(&commit(revision, "shop/web")).into_iter().map(|(_, progress)| progress).collect()
}

#[test]
fn a_commit_is_in_force_once_it_is_acknowledged() {
    let registry = Registry::default();
    let seat = registry.arrive("shop/web", "1", &peer(), 1);
    seat.sent(5, 5, BTreeSet::new());
    assert_eq!(progress(&registry, 5), [Progress::Waiting]);
    assert_eq!(registry.progress(&commit(5, "shop/other")), [], "others are not concerned");
    seat.acked(4, 2);
    assert_eq!(progress(&registry, 5), [Progress::Waiting]);
    seat.acked(5, 2);
    assert_eq!(progress(&registry, 5), [Progress::Acknowledged]);
}

#[test]
fn a_change_that_was_taken_back_before_it_was_sent_is_in_force_too() {
    let registry = Registry::default();
    let seat = registry.arrive("shop/web", "1", &peer(), 1);
    seat.sent(5, 5, BTreeSet::new());
    assert!(!seat.up_to_date(7, 7, BTreeSet::new()));
    assert_eq!(progress(&registry, 6), [Progress::Waiting], "version 5 is still on its way");
    seat.acked(5, 2);
    assert_eq!(progress(&registry, 7), [Progress::Acknowledged]);
    seat.up_to_date(9, 9, BTreeSet::new());
    assert_eq!(progress(&registry, 9), [Progress::Acknowledged]);
}

#[test]
fn a_refusal_is_told_with_its_reason_until_a_later_version_is_taken() {
    let registry = Registry::default();
    let seat = registry.arrive("shop/web", "1", &peer(), 1);
    seat.sent(5, 5, BTreeSet::new());
    seat.nacked(5, "unknown-feature".to_string(), 2);
    assert_eq!(progress(&registry, 5), [Progress::Refused("unknown-feature".to_string())]);
    seat.sent(6, 6, BTreeSet::new());
    seat.acked(6, 3);
    assert_eq!(progress(&registry, 5), [Progress::Acknowledged]);
    assert_eq!(registry.list()[0].last_error, "");
}

#[test]
fn an_answer_to_what_was_never_sent_counts_for_nothing_more() {
    let registry = Registry::default();
    let seat = registry.arrive("shop/web", "1", &peer(), 1);
    seat.sent(5, 5, BTreeSet::new());
    seat.acked(u64::MAX, 2);
    assert_eq!(progress(&registry, 6), [Progress::Waiting]);
}

#[test]
fn who_left_is_offline_and_who_came_back_replaces_the_old_stream() {
    let registry = Registry::default();
    let old = registry.arrive("shop/web", "1", &peer(), 1);
    let new = registry.arrive("shop/web", "1", &peer(), 2);
    assert!(old.replaced.is_cancelled() && !new.replaced.is_cancelled());
    drop(old);
    assert_eq!(registry.connected(), 1, "the old stream's end does not mark the new one as gone");
    drop(new);
    assert_eq!(progress(&registry, 5), [Progress::Offline]);
}

fn orders() -> BTreeSet<ResourceKey> {
    [ResourceKey::Service("shop/orders".parse().unwrap())].into()
}

fn of_orders(revision: u64) -> Committed {
    let changed = Changed { keys: orders(), ..Changed::default() };
    Committed {
        revision,
        turn: revision,
        at: tokio::time::Instant::now(),
        changed: Arc::new(changed),
        touched: Arc::default(),
    }
}

#[test]
fn a_commit_wakes_those_who_use_it_and_the_others_are_in_force_without_a_push() {
    let registry = Registry::default();
    let (web, jobs) = (registry.arrive("shop/web", "1", &peer(), 1), registry.arrive("shop/jobs", "1", &peer(), 1));
    web.sent(5, 5, orders());
    jobs.sent(5, 5, BTreeSet::new());
    [&web, &jobs].into_iter().for_each(|seat| seat.acked(5, 2));
    assert_eq!(registry.publish(6, 6, Some(&[of_orders(6)])), 1);
    let acked =
        || registry.list().into_iter().map(|proxy| (proxy.acked, proxy.behind_since.is_some())).collect::<Vec<_>>();
    assert_eq!(acked(), [(6, false), (5, true)], "jobs, web");
    assert_eq!(registry.progress(&of_orders(6)), [("shop/web".to_string(), Progress::Waiting)]);
    // A second one, before the stream has looked: what is in force does not move on.
    assert_eq!(registry.publish(7, 7, Some(&[commit(7, "shop/web")])), 1);
    assert_eq!(acked(), [(7, false), (5, true)]);
    assert!(!web.sent(7, 7, orders()));
    web.acked(7, 3);
    assert_eq!(acked(), [(7, false), (7, false)]);
    web.sent(8, 8, BTreeSet::new());
    assert_eq!(registry.publish(9, 9, Some(&[of_orders(9)])), 0, "it does not use it any more");
}

#[test]
fn a_commit_that_came_while_it_was_not_known_what_is_used_is_looked_at_again() {
    let registry = Registry::default();
    let seat = registry.arrive("shop/web", "1", &peer(), 1);
    seat.sent(5, 5, BTreeSet::new());
    registry.publish(6, 6, Some(&[of_orders(6)]));
    assert!(seat.sent(5, 5, orders()), "the view is of revision 5, and 6 may concern it");
    seat.acked(5, 2);
    assert_eq!(registry.progress(&of_orders(6)), [("shop/web".to_string(), Progress::Waiting)]);
    assert!(!seat.up_to_date(6, 6, orders()));
    assert_eq!(registry.progress(&of_orders(6)), [("shop/web".to_string(), Progress::Acknowledged)]);
}

#[test]
fn when_too_much_was_missed_everybody_is_woken() {
    let registry = Registry::default();
    let seats = ["shop/web", "shop/jobs"].map(|name| registry.arrive(name, "1", &peer(), 1));
    for seat in &seats {
        seat.sent(5, 5, BTreeSet::new());
    }
    assert_eq!(registry.publish(5_000, 5_000, None), 2);
}
