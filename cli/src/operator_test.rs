use std::fs::{self, Permissions};

use super::*;

const GOOD: &str = "address: 10.10.0.2:15013\ntrustDomain: shop.example\nroots: |\n  R\ncertificate: |\n  C\nkey: |\n  secret-key-text\n";

fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.yaml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn a_file_for_its_owner_alone_is_read() {
    for mode in [0o600, 0o400] {
        let (_dir, path) = written(GOOD, mode);
        assert_eq!(Operator::read(&path).unwrap().address, "10.10.0.2:15013");
    }
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_fix() {
    for mode in [0o644, 0o640, 0o604, 0o660] {
        let (_dir, path) = written(GOOD, mode);
        let text = Operator::read(&path).unwrap_err().text();
        assert!(text.contains(&format!("mode {mode:04o}")) && text.contains("chmod 600"), "{text}");
    }
}

#[test]
fn the_key_is_in_no_message() {
    let (_dir, path) = written(GOOD, 0o600);
    assert!(!format!("{:?}", Operator::read(&path).unwrap()).contains("secret-key-text"));
    for broken in
        [GOOD.replace("key: |", "kez: |"), GOOD.replace("key: |\n", ""), GOOD.replace("shop.example", "Not A Domain")]
    {
        let (_dir, path) = written(&broken, 0o600);
        let text = Operator::read(&path).unwrap_err().text();
        assert!(text.contains("operator.yaml") && !text.contains("secret-key-text"), "{text}");
    }
}

#[test]
fn a_missing_file_says_where_to_get_one() {
    let text = Operator::read(Path::new("/nonexistent/operator.yaml")).unwrap_err().text();
    assert!(text.contains("state directory") && text.contains("--operator"), "{text}");
}
