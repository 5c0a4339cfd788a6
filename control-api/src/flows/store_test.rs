//! What is kept, for how long, and what gives way.

use super::*;
use isthmus_proto::flows::v1 as wire;
use isthmus_proto::model::flow::Report;
use std::fs;
use std::time::Duration;

const DAY_MS: i64 = 24 * HOUR_MS;
/// 2027-01-15T08:00:00Z, which is a full hour.
const NOW: i64 = 1_800_000_000_000;

fn flow(method: &str, at: i64) -> wire::Flow {
    wire::Flow {
        identity: "spiffe://shop.example/ns/shop/sa/web".into(),
        method: method.into(),
        port: 8080,
        count: 1,
        first_seen_unix_ms: at,
        last_seen_unix_ms: at,
        ..Default::default()
    }
}

fn refusal(id: &str, at: i64) -> wire::Refusal {
    wire::Refusal { id: id.into(), at_unix_ms: at, ..Default::default() }
}

fn taken(sequence: u64, flows: Vec<wire::Flow>, refusals: Vec<wire::Refusal>) -> Taken {
    let report = Report { flows, refusals, ..Report::default() };
    Taken { workload: "shop/orders".into(), life: 7, sequence, dropped: 2, report }
}

fn all(store: &FlowStore, since: i64) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    store
        .each_flow(since, |record| {
            found.extend(record.flow.map(|flow| (flow.method, flow.count)));
            true
        })
        .unwrap();
    found
}

#[test]
fn a_report_that_is_sent_again_counts_once_and_a_new_life_counts_anew() {
    let store = FlowStore::in_memory().unwrap();
    let kept = Kept::default();
    let first = || taken(1, vec![flow("GET", NOW)], vec![refusal("a", NOW)]);
    store.write(&[first(), first()], &kept).unwrap();
    store.write(&[first(), taken(2, vec![flow("GET", NOW + 1)], vec![])], &kept).unwrap();
    assert_eq!(all(&store, 0), [("GET".to_owned(), 2)]);
    assert_eq!(store.reported("shop/orders").unwrap(), Some(Reported { last_ms: NOW + 1, dropped: 4 }));
    assert_eq!(store.dropped().unwrap(), 4, "on the control plane's own metrics");
    store.write(&[Taken { life: 8, ..first() }], &kept).unwrap();
    assert_eq!(all(&store, 0), [("GET".to_owned(), 3)]);
    assert_eq!(store.refusal("a").unwrap().unwrap().workload, "shop/orders");
    assert_eq!(store.refusal("b").unwrap(), None);
    // Another proxy cannot rewrite what was reported.
    store.write(&[Taken { workload: "shop/web".into(), ..first() }], &kept).unwrap();
    assert_eq!(store.refusal("a").unwrap().unwrap().workload, "shop/orders");
}

#[test]
fn what_left_the_mesh_is_counted_beside_what_came_and_apart_from_it() {
    let store = FlowStore::in_memory().unwrap();
    let left = |host: &str, at: i64| wire::Departure {
        host: host.into(),
        read: true,
        port: 443,
        count: 2,
        first_seen_unix_ms: at,
        last_seen_unix_ms: at,
        ..Default::default()
    };
    let report = |sequence, departures: Vec<wire::Departure>| Taken {
        report: Report { departures, ..Report::default() },
        ..taken(sequence, vec![], vec![])
    };
    store.write(&[taken(1, vec![flow("GET", NOW)], vec![])], &Kept::default()).unwrap();
    store.write(&[report(2, vec![left("a", NOW), left("b", NOW)])], &Kept::default()).unwrap();
    store.write(&[report(3, vec![left("a", NOW + 1)])], &Kept::default()).unwrap();
    let mut found = Vec::new();
    let each = |record: RecordedFlow| {
        found.extend(record.departure.map(|left| (left.host, left.count, left.last_seen_unix_ms)));
        true
    };
    store.each_flow(0, each).unwrap();
    found.sort();
    assert_eq!(found, [("a".to_owned(), 4, NOW + 1), ("b".to_owned(), 2, NOW)]);
    assert_eq!(store.reported("shop/orders").unwrap().unwrap().last_ms, NOW + 1);
    assert_eq!(store.size().unwrap().0, 3);
}

#[test]
fn hours_become_days_and_days_end() {
    let store = FlowStore::in_memory().unwrap();
    let kept = Kept { keep: Duration::from_secs(35 * 86_400), ..Kept::default() };
    let hourly: Vec<_> = (0..40 * 24).map(|hour| flow("GET", NOW - hour * HOUR_MS)).collect();
    store.write(&[taken(1, hourly, vec![refusal("old", NOW - 36 * DAY_MS), refusal("new", NOW)])], &kept).unwrap();
    assert_eq!(store.size().unwrap().0, 960);
    store.tidy(NOW, &kept).unwrap();
    let (count, bytes, evicted) = store.size().unwrap();
    // 49 hours as they are, the days before of 35 days and the one that is partly older.
    assert!((80..90).contains(&count), "{count}");
    assert!(bytes > 0 && evicted == 0);
    let counts: u64 = all(&store, 0).iter().map(|(_, count)| count).sum();
    assert!((35 * 24..37 * 24).contains(&counts), "{counts}");
    assert_eq!(all(&store, NOW - 7 * DAY_MS).iter().map(|(_, count)| count).sum::<u64>() / 24, 7);
    assert!(store.refusal("old").unwrap().is_none() && store.refusal("new").unwrap().is_some());
    store.tidy(NOW + 40 * DAY_MS, &kept).unwrap();
    store.tidy(NOW + 40 * DAY_MS, &kept).unwrap();
    assert_eq!(store.size().unwrap(), (0, 0, 0), "the bytes are counted right");
}

#[test]
fn the_oldest_gives_way_when_there_is_too_much() {
    let store = FlowStore::in_memory().unwrap();
    let kept = Kept { max_records: 10, ..Kept::default() };
    let flows = (0..25).map(|hour| flow(&format!("M{hour}"), NOW + hour * HOUR_MS)).collect();
    store.write(&[taken(1, flows, vec![])], &kept).unwrap();
    let (count, bytes, evicted) = store.size().unwrap();
    assert_eq!((count, evicted), (10, 15));
    assert_eq!(all(&store, 0)[0].0, "M15");
    let kept = Kept { max_bytes: bytes / 2, ..kept };
    store.write(&[taken(2, vec![], vec![])], &kept).unwrap();
    assert_eq!((store.size().unwrap().0, store.size().unwrap().2), (5, 20));
}

#[test]
fn it_survives_a_restart_and_a_damaged_file_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows.redb");
    let store = FlowStore::open(&path).unwrap();
    store.write(&[taken(1, vec![flow("GET", NOW)], vec![])], &Kept::default()).unwrap();
    assert!(matches!(FlowStore::open(&path), Err(StoreError::Io(_))), "one process at a time");
    drop(store);
    assert_eq!(all(&FlowStore::open(&path).unwrap(), 0).len(), 1);
    fs::write(&path, b"not a database, and longer than a header would be".repeat(100)).unwrap();
    assert_eq!(all(&FlowStore::open(&path).unwrap(), 0), []);
    assert!(path.with_extension("redb.damaged").exists());
}
