use std::os::unix::fs::PermissionsExt;

use super::*;

fn joined() -> Joined {
    Joined {
        address: "10.10.0.2:15012".into(),
        trust_domain: "shop.example".into(),
        files: vec!["/etc/isthmus/proxy.yaml".into()],
        state_dir: "/var/lib/isthmus".into(),
        unit: None,
        user_created: false,
    }
}

#[test]
fn the_record_survives_a_round_trip_and_its_absence_is_not_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Joined::read(dir.path()).unwrap(), None);
    joined().write(dir.path()).unwrap();
    assert_eq!(Joined::read(dir.path()).unwrap(), Some(joined()));
}

#[test]
fn a_record_that_somebody_edited_is_not_acted_upon() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path(dir.path()), r#"{"files": ["/"], "surprise": 1}"#).unwrap();
    assert!(Joined::read(dir.path()).unwrap_err().text().contains("joined.json"));
}

#[test]
fn a_private_file_is_private_even_over_a_public_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("join-token");
    fs::write(dir.path().join("join-token.new"), "left over").unwrap();
    file(&secret, "secret\n", 0o600, None).unwrap();
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
    assert!(!dir.path().join("join-token.new").exists());
}
