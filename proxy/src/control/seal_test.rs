use super::*;

fn key(byte: u8) -> Seal {
    Seal::Key(Zeroizing::new([byte; KEY]))
}

#[test]
fn what_is_sealed_opens_with_its_key_under_its_name_and_unchanged() {
    let sealed = key(1).close("identity.pem", b"secret").unwrap().unwrap();
    assert!(!sealed.windows(6).any(|part| part == b"secret"));
    assert_eq!(key(1).open("identity.pem", &sealed).unwrap().as_slice(), b"secret");
    assert!(key(2).open("identity.pem", &sealed).is_err(), "another machine");
    assert!(key(1).open("last-good", &sealed).is_err(), "another file");
    assert!(Seal::default().open("identity.pem", &sealed).unwrap_err().contains("sealing is turned off"));
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(key(1).open("identity.pem", &changed).is_err());
        assert!(key(1).open("identity.pem", &sealed[..at]).is_err());
    }
}

#[test]
fn plain_stays_plain_and_says_so() {
    assert_eq!(Seal::default().close("identity.pem", b"x").unwrap(), None);
    assert!(Seal::default().in_words().starts_with("plain files with mode 0600"));
}

#[tokio::test]
async fn a_key_that_this_machine_cannot_open_is_an_error_and_not_a_new_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(KEY_FILE), "of another machine").unwrap();
    let error = Seal::find(dir.path()).await.unwrap_err();
    assert!(error.contains("state.key") && error.contains("join again"), "{error}");
}
