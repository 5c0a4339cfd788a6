use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::mesh_test::{Forge, HOUR, Mesh, at};

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let mesh = Mesh::new("shop.example");
    let good = mesh.identity(&mesh.id("web"), HOUR);
    let now = crate::Clock::now(&mesh.clock);
    let new = |chain: &[CertificateDer<'static>], key: &PrivateKey, bundle: &TrustBundle, now| {
        WorkloadIdentity::new(chain.to_vec(), key.clone(), bundle.clone(), now).map(drop)
    };
    let is = |result: Result<(), IdentityError>, reason| match result {
        Err(IdentityError::Certificate(found)) => assert_eq!(found, reason),
        other => panic!("{other:?}"),
    };
    new(&good.chain, &good.key, &good.bundle, now).unwrap();
    let other_key = PrivateKey::generate().unwrap();
    assert!(matches!(new(&good.chain, &other_key, &good.bundle, now), Err(IdentityError::OtherKey)));
    is(new(&good.chain, &good.key, &Forge::new("shop.example").bundle(), now), PeerError::UntrustedRoot);
    is(new(&good.chain, &good.key, &TrustBundle::empty(), now), PeerError::UntrustedRoot);
    is(new(&good.chain[..1], &good.key, &good.bundle, now), PeerError::UntrustedRoot);
    is(new(&[], &good.key, &good.bundle, now), PeerError::NoCertificate);
    let (from, to) = (good.not_before.as_secs(), good.not_after.as_secs());
    is(new(&good.chain, &good.key, &good.bundle, at(from - 1)), PeerError::NotYetValid);
    is(new(&good.chain, &good.key, &good.bundle, at(to + 1)), PeerError::Expired);
}

#[test]
fn life_is_counted_without_the_backdating() {
    let mesh = Mesh::new("shop.example");
    for lifetime in [std::time::Duration::from_secs(2), HOUR] {
        let identity = mesh.identity(&mesh.id("web"), lifetime);
        assert_eq!(identity.issued_at(), crate::Clock::now(&mesh.clock));
    }
}

#[test]
fn an_identity_survives_a_restart_with_its_files_private() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("isthmus");
    let mesh = Mesh::new("shop.example");
    let now = crate::Clock::now(&mesh.clock);
    let load = || WorkloadIdentity::load(&dir, mesh.ca.trust_domain(), now);
    assert!(load().unwrap().is_none(), "no directory");
    for _ in 0..2 {
        let identity = mesh.identity(&mesh.id("web"), HOUR);
        identity.save(&dir).unwrap();
        let loaded = load().unwrap().unwrap();
        assert_eq!((&loaded.id, loaded.serial, &loaded.chain), (&identity.id, identity.serial, &identity.chain));
        assert_eq!((&loaded.bundle, loaded.key.public()), (&identity.bundle, identity.key.public()));
    }
    for name in ["identity.pem", "roots.pem"] {
        let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "no left-overs");
}

#[test]
fn a_left_over_of_a_crash_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = Mesh::new("shop.example");
    let left_over = dir.path().join(".identity.pem.new");
    std::fs::write(&left_over, "half of a fi").unwrap();
    std::fs::set_permissions(&left_over, std::fs::Permissions::from_mode(0o666)).unwrap();
    mesh.identity(&mesh.id("web"), HOUR).save(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join("identity.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!left_over.exists());
}

#[test]
fn state_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mesh = Mesh::new("shop.example");
    let now = crate::Clock::now(&mesh.clock);
    mesh.identity(&mesh.id("web"), HOUR).save(dir).unwrap();
    let refused = |trust_domain: &str, seconds: u64| {
        let trust_domain = crate::mesh_test::td(trust_domain);
        WorkloadIdentity::load(dir, &trust_domain, at(now.as_secs() + seconds)).unwrap_err().to_string()
    };
    assert!(refused("shop.example", 3601).contains("expired"));
    assert!(refused("other.example", 0).contains("wrong-trust-domain"));

    let file = dir.join("identity.pem");
    let kept = std::fs::read(&file).unwrap();
    for (content, why) in [
        (&kept[..kept.len() / 2], ""),
        (b"", "no private key"),
        (&[b'x'; 300 * 1024], "longer than"),
        (&kept[..kept.windows(10).position(|w| w == b"-----BEGIN").unwrap()], ""),
    ] {
        std::fs::write(&file, content).unwrap();
        let text = refused("shop.example", 0);
        assert!(text.contains(why), "{text}");
    }
    std::fs::write(&file, &kept).unwrap();
    std::fs::remove_file(dir.join("roots.pem")).unwrap();
    assert!(refused("shop.example", 0).contains("no root"));
}

#[test]
fn debug_shows_no_key() {
    let mesh = Mesh::new("shop.example");
    let identity = mesh.identity(&mesh.id("web"), HOUR);
    let shown = format!("{identity:?}");
    assert!(shown.contains("[redacted]") && shown.contains("sa/web"));
    let secret = crate::hex::encode(&identity.key.to_pkcs8().unwrap()[36..68]);
    assert!(!shown.contains(&secret[..16]));
}
