//! What an attested document says, and the nonce that it must carry.

use super::*;
use isthmus_certs::csr;
use proptest::prelude::*;

fn key() -> PublicKeyInfo {
    csr::verify(&csr::request(&csr::new_key().unwrap()).unwrap()).unwrap()
}

#[test]
fn a_nonce_is_good_for_one_key_and_for_two_to_four_minutes() {
    let (nonces, mine, other) = (Nonces::new().unwrap(), key(), key());
    let made = 7 * NONCE_LASTS_MS;
    let nonce = nonces.make(&mine, made);
    assert!(nonces.knows(&nonce, &mine, made) && nonces.knows(&nonce, &mine, made + 2 * NONCE_LASTS_MS - 1));
    assert!(!nonces.knows(&nonce, &mine, made + 2 * NONCE_LASTS_MS), "too old");
    assert!(!nonces.knows(&nonce, &mine, made - 1), "from the future");
    assert!(!nonces.knows(&nonce, &other, made), "another key's");
    assert!(!Nonces::new().unwrap().knows(&nonce, &mine, made), "another control plane's");
}

#[test]
fn times_are_read_as_azure_writes_them() {
    assert_eq!(time_ms("01/15/27 08:00:00 -0000").unwrap(), 1_800_000_000_000);
    assert!(time_ms("2027-01-15T08:00:00Z").is_err());
}

proptest! {
    #[test]
    fn any_content_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,40}") {
        let _ = Content::read(&bytes);
        let _ = time_ms(&text);
    }
}
