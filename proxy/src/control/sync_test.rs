//! What is asked for is bounded, and absent addresses make room.

use super::*;

fn absent(ips: impl Iterator<Item = IpAddr>) -> wire::Delta {
    wire::Delta { version: 1, removals: ips.map(|ip| ResourceKey::Address(ip).into()).collect(), ..Default::default() }
}

fn nth(n: usize) -> IpAddr {
    let n = u32::try_from(n).unwrap();
    IpAddr::from((0x0a0a_0000 + n).to_be_bytes())
}

fn sync() -> Sync {
    Sync::new("shop/web", &TrustDomain::parse("shop.example").unwrap())
}

#[test]
fn an_address_is_asked_for_once() {
    let (mut sync, mesh) = (sync(), Mesh::unknown());
    assert!(sync.want(nth(1), &mesh).is_some());
    assert!(sync.want(nth(1), &mesh).is_none());
    assert_eq!(sync.begin().len(), 1);
}

#[test]
fn a_scan_of_absent_addresses_drops_the_oldest() {
    let mut sync = sync();
    let mut mesh = Mesh::unknown();
    for n in 0..MAX_ABSENT {
        sync.want(nth(n), &mesh).unwrap();
    }
    mesh = sync.take(absent((0..MAX_ABSENT).map(nth)), &mesh).publish.unwrap();
    let (message, forgotten) = sync.want(nth(MAX_ABSENT), &mesh).unwrap();
    assert_eq!(forgotten, Some(nth(0)));
    assert_eq!(message.drop, vec![ResourceKey::Address(nth(0)).into()]);
    assert_eq!(sync.begin().len(), MAX_ABSENT);
}

#[test]
fn the_removal_of_what_we_no_longer_ask_for_is_not_an_answer() {
    let mut sync = sync();
    let mesh = sync.take(absent([nth(1)].into_iter()), &Mesh::unknown()).publish.unwrap();
    assert!(!mesh.is_absent(nth(1)));
    sync.want(nth(1), &mesh).unwrap();
    let mesh = sync.take(absent([nth(1)].into_iter()), &mesh).publish.unwrap();
    assert!(mesh.is_absent(nth(1)));
}

#[test]
fn the_table_has_an_end() {
    let (mut sync, mesh) = (sync(), Mesh::unknown());
    let taken = (0..=MAX_SUBSCRIBED).filter(|n| sync.want(nth(*n), &mesh).is_some()).count();
    assert_eq!(taken, MAX_SUBSCRIBED);
}

#[test]
fn problems_of_a_whole_sync_are_told_at_its_end() {
    let mut sync = sync();
    sync.begin();
    let future = wire::Delta {
        version: 3,
        upserts: vec![wire::Resource {
            key: Some(ResourceKey::Mesh.into()),
            requires: vec!["weather/v9".into()],
            body: None,
        }],
        ..Default::default()
    };
    let first = sync.take(future, &Mesh::unknown());
    assert!(first.publish.is_none() && first.answer.is_none());
    let last = wire::Delta { version: 3, first_sync_complete: true, ..Default::default() };
    let done = sync.take(last, &Mesh::unknown());
    assert!(done.publish.is_some());
    assert!(matches!(done.answer, Some(Answer::Nack(nack)) if nack.problems.len() == 1));
}
