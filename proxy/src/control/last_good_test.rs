use std::sync::Arc;

use isthmus_certs::{
    CertificateAuthority, Clock as _, ManualClock, PrivateKey, PublicKeyInfo, TrustDomain, WorkloadIdentity,
};
use proptest::prelude::*;

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;
const DAY: Duration = Duration::from_secs(86_400);

struct Signer {
    ca: CertificateAuthority,
    own: WorkloadIdentity,
}

fn signer() -> Signer {
    let (clock, domain) = (ManualClock::at_ms(NOW_MS), TrustDomain::parse("shop.example").unwrap());
    let ca = CertificateAuthority::generate(&domain, Arc::new(clock.clone())).unwrap();
    let key = PrivateKey::generate().unwrap();
    let issued = ca.issue(&PublicKeyInfo::of(&key), &SpiffeId::control_plane(&domain), DAY, &[]).unwrap();
    let own = WorkloadIdentity::from_issued(issued, key, ca.bundle(), clock.now()).unwrap();
    Signer { ca, own }
}

fn owner() -> Owner {
    let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/orders").unwrap();
    Owner { id, workload: "shop/orders".to_owned(), machine: vec![7; 32] }
}

fn resource(key: ResourceKey) -> wire::Resource {
    wire::Resource { key: Some(key.into()), requires: vec!["x/v1".to_owned()], body: None }
}

/// Version 7 with the mesh and one address, signed now.
fn held(signer: &Signer) -> Holding {
    let resources = [ResourceKey::Mesh, ResourceKey::Address("10.10.1.1".parse().unwrap())].map(resource);
    let keys: Vec<_> = resources.iter().map(|one| one.key.as_ref().map(view::key)).collect();
    let bytes: Vec<_> = resources.iter().map(wire::Resource::encode_to_vec).collect();
    let digests = keys.iter().flatten().cloned().zip(bytes.iter().map(|bytes| view::digest(bytes))).collect();
    let of = ViewOf { workload: "shop/orders", version: 7, signed_unix_ms: NOW_MS };
    let signature = wire::ViewSignature {
        signed_unix_ms: NOW_MS,
        chain_der: signer.own.chain.iter().map(|der| der.to_vec()).collect(),
        signature: statement::sign(&signer.own, &view::text(of, &digests)).unwrap(),
    };
    let delta = wire::RawDelta { version: 7, upserts: bytes, signature: Some(signature), ..Default::default() };
    let mut holding = Holding::default();
    holding.apply(&delta, keys);
    holding
}

fn check(content: &[u8], signer: &Signer, owner: &Owner, seen: u64, now_ms: i64) -> Result<Restored, Refused> {
    parse(content)?.check(owner, &signer.ca.bundle(), seen, (now_ms, DAY))
}

#[test]
fn what_was_written_is_taken_by_its_owner_in_its_time() {
    let (signer, owner) = (signer(), owner());
    let content = held(&signer).write(&owner);
    let restored = check(&content, &signer, &owner, 7, NOW_MS + 3_600_000).unwrap();
    assert_eq!((restored.delta.version, restored.signed_ms, restored.delta.upserts.len()), (7, NOW_MS, 2));
    assert_eq!(restored.addresses, ["10.10.1.1".parse::<IpAddr>().unwrap()]);
    assert!(restored.delta.first_sync_complete);
}

#[test]
fn what_is_anothers_older_or_too_old_is_refused() {
    let (signer, owner) = (signer(), owner());
    let content = held(&signer).write(&owner);
    let refused = |owner: &Owner, seen, now_ms| check(&content, &signer, owner, seen, now_ms).unwrap_err();
    let other = Owner { id: SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").unwrap(), ..owner.clone() };
    assert!(matches!(refused(&other, 7, NOW_MS), Refused::OtherIdentity { .. }));
    let other = Owner { workload: "shop/orders-2".to_owned(), ..owner.clone() };
    assert!(matches!(refused(&other, 7, NOW_MS), Refused::OtherIdentity { .. }));
    assert_eq!(refused(&Owner { machine: vec![8; 32], ..owner.clone() }, 7, NOW_MS), Refused::OtherMachine);
    assert_eq!(refused(&owner, 8, NOW_MS), Refused::Older { found: 7, seen: 8 });
    let day_ms = 86_400_000;
    assert!(check(&content, &signer, &owner, 7, NOW_MS + day_ms).is_ok());
    assert!(matches!(refused(&owner, 7, NOW_MS + day_ms + 1), Refused::Stale { .. }));
    assert!(matches!(refused(&owner, 7, NOW_MS - AHEAD_MS - 1), Refused::FromTheFuture { .. }));
    let foreign = check(&content, &super::last_good_test::signer(), &owner, 7, NOW_MS).unwrap_err();
    assert_eq!(foreign, Refused::Signature(PeerError::UntrustedRoot));
}

#[test]
fn what_the_control_plane_did_not_sign_as_it_is_there_is_refused() {
    let (signer, owner) = (signer(), owner());
    let whole = held(&signer);
    let signature = |holding: &Holding| holding.check(&owner, &signer.ca.bundle()).unwrap_err();
    let mut changed = whole.clone();
    changed.resources.values_mut().next().unwrap().push(0);
    assert_eq!(signature(&changed), Refused::Signature(PeerError::BadSignature));
    let mut less = whole.clone();
    less.resources.pop_last();
    assert_eq!(signature(&less), Refused::Signature(PeerError::BadSignature));
    assert_eq!(signature(&Holding { version: 8, ..whole.clone() }), Refused::Signature(PeerError::BadSignature));
    assert_eq!(signature(&Holding { signature: None, ..whole.clone() }), Refused::Unsigned);
    let mut later = whole;
    later.signature.as_mut().unwrap().signed_unix_ms += 1;
    assert_eq!(signature(&later), Refused::Signature(PeerError::BadSignature));
}

#[test]
fn a_file_with_any_byte_changed_or_missing_gives_nothing_else() {
    let (signer, owner) = (signer(), owner());
    let content = held(&signer).write(&owner);
    let whole = check(&content, &signer, &owner, 7, NOW_MS).unwrap().delta;
    for at in (0..content.len()).step_by(3) {
        let mut changed = content.clone();
        changed[at] ^= 0x20;
        for bytes in [&changed[..], &content[..at]] {
            // Bytes that protobuf reads over may differ; what is taken is what was signed.
            if let Ok(restored) = check(bytes, &signer, &owner, 7, NOW_MS) {
                assert_eq!(restored.delta, whole);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(unchecked) = parse(&bytes) {
            let signer = signer();
            prop_assert!(unchecked.check(&owner(), &signer.ca.bundle(), 0, (NOW_MS, DAY)).is_err());
        }
    }
}
