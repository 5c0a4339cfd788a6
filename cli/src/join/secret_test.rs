use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use isthmus_certs::{RootFingerprint, TrustDomain};

use super::*;

fn token() -> String {
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    JoinToken::generate("10.10.0.2:15012", &trust_domain, root).unwrap().format().to_string()
}

fn file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    (dir, path)
}

#[test]
fn a_token_is_read_from_a_file_whatever_blanks_surround_it() {
    let text = token();
    let (_dir, path) = file(&format!("\n{text}\n\n"), 0o600);
    let given = read(Some(&path)).unwrap();
    assert_eq!(given.text, text);
    assert_eq!(given.token.address, "10.10.0.2:15012");
    assert!(given.warning.is_none());
}

#[test]
fn a_token_that_others_could_read_is_taken_with_a_warning() {
    let (_dir, path) = file(&token(), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(read(Some(&path)).unwrap().warning.unwrap().contains("0644"));
}

#[test]
fn what_is_no_token_is_refused_without_repeating_it() {
    for wrong in ["", "hello", "isthmus1.%%%", "-----BEGIN PRIVATE KEY-----"] {
        let (_dir, path) = file(wrong, 0o600);
        let Err(failure) = read(Some(&path)) else { panic!("{wrong:?} was taken") };
        let text = failure.text();
        assert!(text.contains("isthmus token create"), "{text}");
        assert!(wrong.is_empty() || !text.contains(wrong), "{text}");
    }
}
