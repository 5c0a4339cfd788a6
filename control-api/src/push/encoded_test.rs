//! Bytes that are put together are those that the library would write.

use super::*;
use wire::control_message::Message as Of;

fn told(name: &str, size: usize) -> Arc<Told> {
    let service = wire::Service { name: "x".repeat(size), ..Default::default() };
    let key = wire::ResourceKey { kind: wire::ResourceKind::Service.into(), name: name.to_string() };
    Arc::new(Told::from(wire::Resource {
        key: Some(key),
        requires: Vec::new(),
        body: Some(wire::resource::Body::Service(service)),
    }))
}

#[test]
fn a_delta_put_together_is_the_delta() {
    // Around each length at which a varint grows.
    for size in [0, 1, 100, 127, 128, 129, 16_000, 16_384, 70_000] {
        let resources = [told("shop/a", size), told("shop/b", 3)];
        let rest = wire::Delta {
            version: 300,
            removals: vec![wire::ResourceKey { kind: 4, name: "10.0.0.1".to_string() }],
            first_sync_complete: true,
            signature: Some(wire::ViewSignature { signed_unix_ms: 7, ..Default::default() }),
            ..Default::default()
        };
        let encoded = Encoded::default();
        let upserts: Vec<Bytes> = resources.iter().map(|told| encoded.of(told)).collect();
        let bytes = delta(&rest, &upserts);
        let upserts: Vec<wire::Resource> = resources.iter().map(|told| wire::Resource::clone(told)).collect();
        let whole = wire::Delta { upserts, ..rest };
        let read = wire::ControlMessage::decode(&*bytes).unwrap();
        assert_eq!(read.message, Some(Of::Delta(whole.clone())), "{size}");
        assert_eq!(bytes.len(), message(Of::Delta(whole)).len());
        // What is signed is what arrives.
        let raw = wire::RawControlMessage::decode(&*bytes).unwrap();
        let Some(wire::raw_control_message::Message::Delta(raw)) = raw.message else { panic!("a delta") };
        let digests: Vec<_> = raw.upserts.iter().map(|bytes| isthmus_proto::view::digest(bytes)).collect();
        assert_eq!(digests, resources.each_ref().map(|told| told.digest()));
    }
}

#[test]
fn a_resource_is_written_once_for_all_and_not_kept_for_ever() {
    let encoded = Encoded::default();
    let shared = told("shop/a", 10);
    let first = encoded.of(&shared);
    assert_eq!(encoded.of(&shared).as_ptr(), first.as_ptr(), "the same memory");
    let same_words = told("shop/a", 10);
    assert_ne!(encoded.of(&same_words).as_ptr(), first.as_ptr(), "another resource that says the same");
    for n in 0..REMEMBERED {
        encoded.of(&told(&format!("shop/{n}"), 10));
    }
    assert_eq!(Arc::strong_count(&shared), 1, "forgotten");
    let large = told("shop/large", LARGEST);
    encoded.of(&large);
    assert_eq!(Arc::strong_count(&large), 1);
}
