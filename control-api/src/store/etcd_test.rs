//! What only a cluster can do to us: a past that was compacted, members that die, a network that is cut, TLS.

use super::*;
use crate::store::recent::Since;
use crate::store::{Change, Put, Replicas, Store, Stream};
use crate::validate::ResourceRef;
use isthmus_world::apps::{Etcd, EtcdTls, Relay};
use serde_json::json;
use std::time::Instant;

const SOON: Duration = Duration::from_secs(10);
/// Shorter than what is shipped, so that the tests need not wait.
const LEASE: Duration = Duration::from_secs(2);

fn cluster(members: usize) -> Option<Etcd> {
    isthmus_world::find::or_skip(&["etcd"], "etcd as a store")?;
    Some(Etcd::start(members).unwrap())
}

fn open(endpoints: Vec<String>, replica: &str) -> EtcdStore {
    let options = EtcdOptions { endpoints, replica: replica.to_string(), lease: Some(LEASE), ..EtcdOptions::default() };
    EtcdStore::open(options, Codec::default()).unwrap()
}

fn site(name: &str, n: u64) -> Change {
    let put = Put { key: ResourceRef::new("Site", "", name), json: json!({ "n": n }), origin: "api".to_string() };
    Change { puts: vec![put], ..Change::default() }
}

/// Until it holds; what it waits for comes from etcd, in real time.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Compaction {
    #[prost(int64, tag = "1")]
    revision: i64,
}

#[test]
fn a_watch_whose_past_was_compacted_begins_anew() {
    let Some(etcd) = cluster(1) else { return };
    let relay = Relay::to(etcd.clients()[0]).unwrap();
    let (cut_off, other) = (open(vec![format!("http://{}", relay.address())], "a"), open(etcd.endpoints(), "b"));
    other.commit(0, &site("a", 0)).unwrap();
    assert!(matches!(cut_off.since(0, SOON).unwrap(), Since::Commits(commits) if commits.len() == 1));
    relay.cut();
    for n in 1..5 {
        other.commit(n, &site("a", n)).unwrap();
    }
    let compacted = other.ask(|inner| async move {
        let (revision, _) = inner.get("x").await?;
        let request = Compaction { revision };
        Ok(inner.client.once::<_, wire::Nothing>("/etcdserverpb.KV/Compact", request).await?)
    });
    compacted.unwrap();
    relay.mend();
    until("resync", || cut_off.since(1, Duration::from_millis(100)).unwrap() == Since::Resync);
    assert_eq!(cut_off.load().unwrap().revision, 5);
    other.commit(5, &site("a", 6)).unwrap();
    assert!(matches!(cut_off.since(5, SOON).unwrap(), Since::Commits(commits) if commits.len() == 1));
}

#[test]
fn no_acknowledged_write_is_lost_while_members_are_killed_and_come_back() {
    let Some(mut etcd) = cluster(3) else { return };
    let (store, other) = (open(etcd.endpoints(), "a"), open(etcd.endpoints(), "b"));
    let mut acknowledged = 0;
    for round in 0..3 {
        etcd.kill(round);
        for _ in 0..5 {
            let after = store.load().unwrap().revision;
            match store.commit(after, &site("a", after + 1)) {
                Ok(revision) => acknowledged = revision,
                // Said so; the next round looks what became of it.
                Err(StoreError::Unknown(_) | StoreError::Unreachable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        etcd.restart(round).unwrap();
        etcd.healthy().unwrap();
    }
    assert!(acknowledged >= 10, "{acknowledged}");
    let contents = other.load().unwrap();
    assert!(contents.revision >= acknowledged);
    let last = contents.resources.values().next().unwrap();
    assert_eq!(last.json["n"], contents.revision, "half a commit");
    // All members at once: what was acknowledged is on their disks.
    (0..3).for_each(|at| etcd.kill(at));
    assert!(matches!(store.load(), Err(StoreError::Unknown(_) | StoreError::Unreachable(_))));
    (0..3).for_each(|at| etcd.restart(at).unwrap());
    etcd.healthy().unwrap();
    assert_eq!(other.load().unwrap(), contents);
    until("the watch goes on", || {
        let after = store.load().unwrap().revision;
        store
            .commit(after, &site("a", after + 1))
            .is_ok_and(|_| matches!(other.since(after, SOON).unwrap(), Since::Commits(commits) if !commits.is_empty()))
    });
}

#[test]
fn one_leads_and_who_was_cut_off_writes_as_leader_no_more() {
    let Some(etcd) = cluster(1) else { return };
    let relay = Relay::to(etcd.clients()[0]).unwrap();
    let first = open(vec![format!("http://{}", relay.address())], "first");
    until("the first one leads", || first.leads());
    let second = open(etcd.endpoints(), "second");
    until("the second knows who leads", || second.leader().as_deref() == Some("first"));
    let fact = |n: u32| json!({ "n": n });
    assert!(first.swap_fact_leading("roots", None, Some(&fact(1))).unwrap());
    assert!(
        matches!(second.swap_fact_leading("roots", Some(&fact(1)), Some(&fact(2))), Err(StoreError::NotLeading { leader }) if leader == "first")
    );
    let leading = |after| Change { leading: true, ..site("a", after) };
    assert!(matches!(second.commit(0, &leading(1)), Err(StoreError::NotLeading { .. })));
    first.commit(0, &leading(1)).unwrap();
    // Fenced by etcd itself: it believes that it leads, and does not any more.
    let stale = first.inner.fence().unwrap();
    relay.cut();
    until("the second one leads", || second.leads());
    assert!(!first.leads(), "two lead");
    second.commit(1, &leading(2)).unwrap();
    relay.mend();
    let request = TxnRequest {
        compare: vec![stale],
        success: vec![wire::put(second.inner.key("f/roots"), "0")],
        failure: Vec::new(),
    };
    let refused = first.ask(move |inner| async move { Ok(inner.client.txn(request).await?.succeeded) });
    assert!(matches!(refused, Ok(false) | Err(_)), "{refused:?}");
    until(
        "it is told",
        || matches!(first.commit(2, &leading(3)), Err(StoreError::NotLeading { leader }) if leader == "second"),
    );
    // A stale write is refused whoever leads.
    assert!(matches!(first.commit(1, &site("a", 9)), Err(StoreError::Conflict { now: 2, .. })));
    assert_eq!(first.fact("roots").unwrap(), Some(fact(1)));
    drop(second);
    until("leading comes back at once when the leader leaves", || first.leads());
}

#[test]
fn what_a_replica_says_is_known_and_gone_with_it() {
    let Some(etcd) = cluster(1) else { return };
    let (one, other) = (open(etcd.endpoints(), "one"), open(etcd.endpoints(), "other"));
    one.say(json!({ "address": "10.0.0.1:15013" })).unwrap();
    one.hold(&[("shop/web".to_string(), Stream::Ready), ("shop/batch".to_string(), Stream::Ready)]).unwrap();
    one.hold(&[("shop/batch".to_string(), Stream::Gone)]).unwrap();
    let web = |ready| [("shop/web".to_string(), ready)].into();
    until("it is known", || other.held_elsewhere() == web(true));
    until("so is the address", || other.all().get("one") == Some(&json!({ "address": "10.0.0.1:15013" })));
    assert!(one.held_elsewhere().is_empty());
    one.hold(&[("shop/web".to_string(), Stream::Unready)]).unwrap();
    until("its app is not ready", || other.held_elsewhere() == web(false));
    let late = open(etcd.endpoints(), "late");
    until("who comes later knows it too", || late.held_elsewhere() == web(false));
    one.hold(&[("shop/web".to_string(), Stream::Ready)]).unwrap();
    until("and ready again", || late.held_elsewhere() == web(true));
    drop(one);
    until("gone", || other.held_elsewhere().is_empty() && !other.all().contains_key("one"));
}

#[test]
fn what_a_replica_tells_in_pieces_is_read_by_the_others_and_gone_with_it() {
    let Some(etcd) = cluster(1) else { return };
    let relay = Relay::to(etcd.clients()[0]).unwrap();
    let (one, other) = (open(vec![format!("http://{}", relay.address())], "one"), open(etcd.endpoints(), "other"));
    let piece = |n: usize| (format!("{n:02}"), Some(json!({ "n": n, "filler": "x".repeat(60_000) })));
    // More than one transaction holds.
    one.tell((0..40).map(piece).collect()).unwrap();
    let pieces = || other.told(u64::MAX).1.unwrap().into_keys().map(|(_, piece)| piece).collect::<Vec<_>>();
    until("all of it is told", || pieces().len() == 40);
    assert!(one.told(u64::MAX).1.unwrap().is_empty(), "its own word is no news");
    let (seen, _) = other.told(u64::MAX);
    assert_eq!(other.told(seen), (seen, None), "nothing new");
    one.tell(vec![("00".to_string(), None), ("zz".to_string(), Some(json!(7)))]).unwrap();
    until("one went, one came", || pieces().len() == 40 && pieces().last().is_some_and(|last| last == "zz"));
    assert_ne!(other.told(seen).0, seen);
    // Its lease ends while it is cut off; when it is back, it says everything again.
    relay.cut();
    until("it is gone", || pieces().is_empty());
    relay.mend();
    until("it is all there again", || pieces().len() == 40);
    drop(one);
    until("gone", || pieces().is_empty());
}

#[test]
fn a_large_commit_whose_writer_died_is_brought_to_its_place_by_the_next() {
    let Some(etcd) = cluster(1) else { return };
    let (one, other) = (open(etcd.endpoints(), "one"), open(etcd.endpoints(), "other"));
    let puts = (0..500).flat_map(|n| site(&format!("s{n}"), n).puts).collect();
    let change = Change { puts, ..Change::default() };
    let published = one.ask(move |inner| async move {
        let operations = large::lay_down(&inner, &Commit::of(1, &change)).await?;
        inner.publish(0, operations, Vec::new()).await
    });
    assert_eq!(published.unwrap(), 1);
    assert_eq!(other.load().unwrap().resources.len(), 500);
    assert!(matches!(other.since(0, SOON).unwrap(), Since::Commits(commits) if commits[0].resources.len() == 500));
    assert_eq!(other.commit(1, &site("s1", 9)).unwrap(), 2);
    let contents = one.load().unwrap();
    assert_eq!((contents.revision, contents.resources.len()), (2, 500));
    assert_eq!(contents.resources[&ResourceRef::new("Site", "", "s1")].json["n"], 9);
    let left = one.ask(|inner| async move { inner.list::<serde_json::Value>("staged/", "", 0).await });
    assert!(left.unwrap().1.is_empty(), "parts stay behind");
}

#[test]
fn etcd_is_spoken_to_over_tls_with_a_certificate() {
    if isthmus_world::find::or_skip(&["etcd"], "etcd over TLS").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path());
    let etcd = Etcd::start_with(1, Some(tls.clone())).unwrap();
    let options = |certificate: bool| EtcdOptions {
        endpoints: etcd.endpoints(),
        ca_file: Some(tls.ca.clone()),
        certificate_file: certificate.then(|| tls.certificate.clone()),
        key_file: certificate.then(|| tls.key.clone()),
        ..EtcdOptions::default()
    };
    let store = EtcdStore::open(options(true), Codec::default()).unwrap();
    assert_eq!(store.commit(0, &site("a", 1)).unwrap(), 1);
    assert!(EtcdStore::open(options(false), Codec::default()).is_err(), "without a certificate");
    let stranger = certificates(tempfile::tempdir().unwrap().keep().as_path());
    let other_ca = EtcdOptions { ca_file: Some(stranger.ca), ..options(true) };
    assert!(EtcdStore::open(other_ca, Codec::default()).is_err(), "another CA");
    let plain = EtcdOptions { endpoints: vec!["http://127.0.0.1:1".to_string()], ..options(true) };
    assert!(EtcdStore::open(plain, Codec::default()).unwrap_err().to_string().contains("https://"));
    let without = EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() };
    assert!(EtcdStore::open(without, Codec::default()).unwrap_err().to_string().contains("caFile"));
}

/// A CA, and one certificate for both ends.
fn certificates(dir: &std::path::Path) -> EtcdTls {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
    leaf.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    EtcdTls {
        ca: write("ca.pem", ca_certificate.pem()),
        certificate: write("cert.pem", leaf.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}
