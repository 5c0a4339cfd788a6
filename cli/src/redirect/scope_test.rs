use clap::Parser;

use super::*;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    scope: ScopeArgs,
}

fn scope(line: &str) -> ScopeArgs {
    Line::try_parse_from(format!("x {line}").split_whitespace()).unwrap().scope
}

#[test]
fn ssh_is_never_captured_unless_forced() {
    let refused = scope("--inbound-ports 22,80").plan().unwrap_err();
    assert_eq!(refused.json()["status"], 2);
    assert!(refused.text().contains("--exclude-inbound-ports 22"), "{}", refused.text());
    assert!(scope("--inbound-ports 22,80 --exclude-inbound-ports 22").plan().is_ok());
    let forced = scope("--inbound-ports 22 --capture-ssh").plan().unwrap();
    assert!(forced.to_string().contains("tcp dport 22 redirect to :15006"));
    let all = scope("--inbound-all").plan().unwrap().to_string();
    assert!(all.contains("tcp dport 22 return") && all.contains("meta l4proto tcp redirect to :15006"), "{all}");
}

#[test]
fn inbound_nothing_is_captured_that_is_not_named() {
    let plan = scope("").plan().unwrap().to_string();
    assert!(!plan.contains("15006"), "{plan}");
    assert!(plan.contains("meta skuid 1337 return") && plan.contains("redirect to :15001"), "{plan}");
}

#[test]
fn the_port_of_an_ssh_session_is_found() {
    assert_eq!(ssh_port(b"SSH_CONNECTION=10.0.0.1 50000 10.0.0.2 2222"), Some(2222));
    assert_eq!(ssh_port(b"SSH_CONNECTION=10.0.0.1"), None);
    assert_eq!(ssh_port(b"TERM=xterm"), None);
}
