use super::*;
use isthmus_control::operators::token as text;
use std::os::unix::fs::PermissionsExt;

fn some_token() -> isthmus_certs::JoinToken {
    let domain = TrustDomain::parse("shop.example").unwrap();
    let root = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    isthmus_certs::JoinToken::generate("127.0.0.1:15013", &domain, root).unwrap()
}

#[test]
fn a_token_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("robot.token");
    let token = some_token();
    std::fs::write(&path, format!("{}\n", text::format(&token).as_str())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = token::read(Some(&path)).unwrap_err().text();
    assert!(refused.contains("mode 0644") && refused.contains("chmod 600"), "{refused}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(token::read(Some(&path)).unwrap().unwrap().id, token.id);
    // A join token lets a workload in, and nobody else.
    std::fs::write(&path, token.format().as_str()).unwrap();
    let refused = token::read(Some(&path)).unwrap_err().text();
    assert!(refused.contains("isthmus-operator1.") && !refused.contains(token.secret().as_str()), "{refused}");
}

#[test]
fn rights_read_as_sentences() {
    let me = |admin, views: &[&str], edits: &[&str]| wire::WhoAmIResponse {
        admin,
        views: views.iter().map(|v| v.to_string()).collect(),
        edits: edits.iter().map(|v| v.to_string()).collect(),
        ..Default::default()
    };
    assert!(rights(&me(true, &["*"], &["*"])).starts_with("admin"));
    assert!(rights(&me(false, &[], &[])).contains("OperatorRole"));
    assert_eq!(rights(&me(false, &["*"], &["shop", "pay"])), "sees     the whole mesh\nchanges  shop, pay\n");
    assert_eq!(rights(&me(false, &["hr"], &[])), "sees     hr\nchanges  nothing\n");
}
