use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_token_file_is_private_from_its_first_byte_and_never_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let file = private_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(private_file(&path).unwrap_err().text().contains("remove it"));
}

#[test]
fn a_lifetime_is_short() {
    assert_eq!(ttl("7d"), Ok(MAX_TTL));
    assert!(ttl("8d").is_err());
    assert!(ttl("500ms").is_err());
}

#[test]
fn a_workload_has_a_namespace() {
    assert!(workload("shop/orders").is_ok());
    for wrong in ["orders", "/orders", "shop/", "a/b/c"] {
        assert!(workload(wrong).is_err(), "{wrong}");
    }
}
