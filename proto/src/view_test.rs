use prost::Message as _;

use super::*;

const OF: ViewOf<'_> = ViewOf { workload: "shop/orders", version: 7, signed_unix_ms: 1 };

#[test]
fn whatever_differs_is_another_text() {
    let one: BTreeMap<Key, [u8; 32]> = [((3, "shop/orders".to_owned()), [1; 32])].into();
    let mut texts = vec![text(OF, &one)];
    texts.push(text(ViewOf { workload: "shop/order", ..OF }, &one));
    texts.push(text(ViewOf { version: 8, ..OF }, &one));
    texts.push(text(ViewOf { signed_unix_ms: 2, ..OF }, &one));
    texts.push(text(OF, &[((3, "shop/orders".to_owned()), [2; 32])].into()));
    texts.push(text(OF, &[((4, "shop/orders".to_owned()), [1; 32])].into()));
    texts.push(text(OF, &BTreeMap::new()));
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), texts.len());
}

#[test]
fn a_raw_message_is_the_same_bytes() {
    let key = wire::ResourceKey { kind: wire::ResourceKind::Service.into(), name: "shop/orders".into() };
    let resource = wire::Resource { key: Some(key.clone()), requires: vec!["x/v1".into()], body: None };
    let delta = wire::Delta {
        version: 9,
        upserts: vec![resource.clone()],
        removals: vec![key],
        first_sync_complete: true,
        signature: Some(wire::ViewSignature { signed_unix_ms: 5, ..Default::default() }),
    };
    let message = wire::ControlMessage { message: Some(wire::control_message::Message::Delta(delta)) };
    let raw = wire::RawControlMessage::decode(message.encode_to_vec().as_slice()).unwrap();
    let Some(wire::raw_control_message::Message::Delta(read)) = &raw.message else { panic!("a delta") };
    assert_eq!(read.upserts, [resource.encode_to_vec()]);
    assert_eq!(raw.encode_to_vec(), message.encode_to_vec());
}

#[test]
fn the_text_does_not_depend_on_the_order_in_which_resources_come() {
    let names = ["10.0.0.10", "10.0.0.9", "a/b", "a-1/b", ""];
    let keys = names.iter().flat_map(|name| (1..=5).map(move |kind| (kind, *name)));
    let all: Vec<((i32, &str), [u8; 32])> = keys.map(|(kind, name)| ((kind, name), digest(name.as_bytes()))).collect();
    let ordered = all.iter().map(|((kind, name), digest)| ((*kind, (*name).to_owned()), *digest)).collect();
    for by in 0..all.len() {
        let mut turned = all.clone();
        turned.rotate_left(by);
        assert_eq!(text_of(OF, turned), text(OF, &ordered));
    }
}
