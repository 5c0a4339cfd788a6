use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{CertificateAuthority, Clock as _, ManualClock, PrivateKey, PublicKeyInfo, SpiffeId, TrustDomain};

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;

/// For a day from now.
fn identity() -> WorkloadIdentity {
    let (clock, domain) = (ManualClock::at_ms(NOW_MS), TrustDomain::parse("shop.example").unwrap());
    let ca = CertificateAuthority::generate(&domain, Arc::new(clock.clone())).unwrap();
    let key = PrivateKey::generate().unwrap();
    let id = SpiffeId::workload(&domain, "shop", "orders").unwrap();
    let issued = ca.issue(&PublicKeyInfo::of(&key), &id, Duration::from_secs(86_400), &[]).unwrap();
    WorkloadIdentity::from_issued(issued, key, ca.bundle(), clock.now()).unwrap()
}

fn live() -> Facts {
    Facts { connected: true, since_ms: NOW_MS, serving: Serving::Live, ..Facts::default() }
}

#[test]
fn the_time_that_is_left_is_the_certificates_or_the_snapshots() {
    let identity = identity();
    let alone = live().alone(Some(&identity)).unwrap();
    assert_eq!((alone.until_ms, alone.because), (NOW_MS + 24 * HOUR_MS, "the certificate ends"));
    let until_ms = NOW_MS + 9 * HOUR_MS;
    let old = Facts { serving: Serving::LastGood { signed_ms: NOW_MS, until_ms }, ..live() };
    assert_eq!(old.alone(Some(&identity)).unwrap().until_ms, until_ms);
    assert_eq!(live().alone(None), None);
    assert_eq!(Facts { serving: Serving::TooOld, ..live() }.alone(Some(&identity)), None);
}

#[test]
fn nothing_is_said_while_all_is_well_and_everything_that_is_not() {
    let identity = identity();
    assert_eq!(live().warnings(Some(&identity), NOW_MS + 13 * HOUR_MS), [""; 0]);
    let noted = |what: &str| Some(Noted { at_ms: NOW_MS, what: what.to_owned() });
    let bad = Facts {
        connected: false,
        since_ms: NOW_MS,
        last_error: noted("refused"),
        renewal_failures: 3,
        renewal_error: noted("nobody answers"),
        serving: Serving::LastGood { signed_ms: NOW_MS - HOUR_MS, until_ms: NOW_MS + 23 * HOUR_MS },
        kept: Kept::Failed("No space left on device".to_owned()),
        last_good_refused: Some("damaged".to_owned()),
        ..Facts::default()
    };
    let said = bad.warnings(Some(&identity), NOW_MS + 14 * HOUR_MS);
    let expected = [
        "the certificate could not be renewed, 3 attempts, 10 h 0 m left: nobody answers",
        "serving the last good snapshot, 15 h 0 m old, for 9 h 0 m more",
        "no stream to the control plane for 14 h 0 m: refused",
        "the snapshot is not kept on disk, and a restart needs the control plane: No space left on device",
        "the last good snapshot was not taken: damaged",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    let late = live().warnings(Some(&identity), NOW_MS + 20 * HOUR_MS);
    assert_eq!(late, ["the certificate ends in 4 h 0 m and was not renewed"]);
}
