//! A chain of arbitrary certificates, and a good one damaged: parsed or refused, never accepted by a mesh whose root did
//! not sign it.

use std::sync::LazyLock;
use std::time::Duration;

use isthmus_certs::verify::{Role, verify_chain};
use isthmus_certs::{
    CertificateAuthority, Clock, ManualClock, PrivateKey, PublicKeyInfo, SpiffeId, TrustDomain, peer_identity,
};

struct Good {
    ca: CertificateAuthority,
    clock: ManualClock,
    chain: Vec<Vec<u8>>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let clock = ManualClock::at_ms(1_800_000_000_000);
    let td = TrustDomain::parse("shop.example").unwrap();
    let ca = CertificateAuthority::generate(&td, std::sync::Arc::new(clock.clone())).unwrap();
    let key = PublicKeyInfo::of(&PrivateKey::generate().unwrap());
    let id = SpiffeId::workload(&td, "shop", "web").unwrap();
    let issued = ca.issue(&key, &id, Duration::from_secs(3600), &[]).unwrap();
    Good { ca, clock, chain: issued.chain.iter().map(|der| der.to_vec()).collect() }
});

// The first byte says how many bytes of the good chain are changed; then pairs of place and value; then a certificate.
pub fn run(data: &[u8]) {
    let Some((&changes, mut rest)) = data.split_first() else { return };
    let mut chain = GOOD.chain.clone();
    for _ in 0..changes % 8 {
        let Some((&[which, high, low, value], after)) = rest.split_first_chunk::<4>() else { break };
        rest = after;
        let certificate = &mut chain[usize::from(which) % 2];
        let at = usize::from(u16::from_be_bytes([high, low])) % certificate.len();
        certificate[at] ^= value;
    }
    let is_good = chain == GOOD.chain;
    let mut chain: Vec<_> = chain.into_iter().map(Into::into).collect();
    let verify =
        |chain: &[_]| verify_chain(chain, &GOOD.ca.bundle(), GOOD.ca.trust_domain(), Role::Client, GOOD.clock.now());
    assert_eq!(verify(&chain).is_ok(), is_good);
    chain.insert(0, rest.to_vec().into());
    let _ = peer_identity(&chain);
    assert!(verify(&chain).is_err() || rest == GOOD.chain[0]);
}
