//! The binary as a script sees it: exit statuses, and what goes to which stream.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Output, Stdio};

/// Runs it with an empty home, and nothing in its environment that could name an operator or a token.
fn isthmus(args: &[&str], stdin: &str) -> Output {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // It may end without reading.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("it prints UTF-8")
}

#[test]
fn wrong_usage_ends_with_2_and_a_refusal_with_1() {
    assert_eq!(isthmus(&["apply"], "").status.code(), Some(2));
    assert_eq!(isthmus(&["get", "ingress"], "").status.code(), Some(2));
    assert_eq!(isthmus(&["get", "policies"], "").status.code(), Some(1));
    assert_eq!(isthmus(&["version"], "").status.code(), Some(0));
}

#[test]
fn an_error_goes_to_stderr_and_with_json_to_stdout() {
    let plain = isthmus(&["get", "policies"], "");
    assert!(plain.stdout.is_empty());
    assert!(text(&plain.stderr).contains("operator.yaml") && text(&plain.stderr).contains("try:"));
    let json = isthmus(&["get", "policies", "--json"], "");
    assert!(json.stderr.is_empty(), "{}", text(&json.stderr));
    let object: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(object["ok"], false);
    assert!(object["advice"].is_string());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    let child = command.args(["version"]).env_clear().stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(141), String::new()));
}

#[test]
fn a_token_that_is_refused_is_repeated_nowhere() {
    let secret = "isthmus1.c2VjcmV0LXNlY3JldC1zZWNyZXQ";
    let answer = isthmus(&["join", "--token-file", "-", "--dry-run"], secret);
    assert_eq!(answer.status.code(), Some(1));
    assert!(!text(&answer.stderr).contains("c2VjcmV0"), "{}", text(&answer.stderr));
    let given_as_argument = isthmus(&["join", secret], "");
    assert_eq!(given_as_argument.status.code(), Some(2));
}

#[test]
fn leaving_without_having_joined_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let answer = isthmus(&["leave", "--config-dir", dir.path().to_str().unwrap()], "");
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("has not joined"));
}

#[test]
fn credentials_that_cannot_be_right_are_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.yaml");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(b"address: 127.0.0.1:1\ntrustDomain: shop.example\nroots: ''\ncertificate: ''\nkey: ''\n").unwrap();
    let answer = isthmus(&["get", "all", "--operator", path.to_str().unwrap()], "");
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("operator.yaml: key"), "{}", text(&answer.stderr));
}
