use proptest::prelude::*;

use super::*;
use crate::mesh_test::{Mesh, td};

fn token() -> JoinToken {
    let root = Mesh::new("shop.example").ca.bundle().fingerprints()[0];
    JoinToken::generate("10.10.0.2:15012", &td("shop.example"), root).unwrap()
}

fn encode(lines: &str) -> String {
    format!("isthmus1.{}", URL_SAFE_NO_PAD.encode(lines))
}

#[test]
fn a_token_survives_its_text() {
    let token = token();
    let text = token.format();
    assert!(text.starts_with("isthmus1.") && text.len() < 300, "{} characters", text.len());
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "safe in any shell and file");
    let again = JoinToken::parse(&format!("  {}\n", text.as_str())).unwrap();
    assert_eq!(
        (&again.address, &again.trust_domain, again.root, &again.id),
        (&token.address, &token.trust_domain, token.root, &token.id)
    );
    assert_eq!(again.secret(), token.secret());
}

#[test]
fn what_goes_over_the_wire_is_recognised_by_its_hash() {
    let (one, two) = (token(), token());
    let wire = one.secret();
    let (id, hash) = split_secret(&wire).unwrap();
    assert_eq!(id, one.id);
    assert!(hash.matches(&one.secret_hash()));
    assert!(hash.matches(&SecretHash::from_bytes(*one.secret_hash().as_bytes())));
    assert!(!hash.matches(&two.secret_hash()));
    assert_ne!(one.id, two.id);
}

#[test]
fn wire_secrets_of_another_form_are_refused() {
    let token = token();
    let wire = token.secret();
    let secret = wire.split_once('.').unwrap().1;
    let id = &token.id;
    for bad in [
        String::new(),
        ".".into(),
        id.clone(),
        format!("{id}."),
        format!("{id}.{secret}x"),
        format!("{id}.{}", &secret[1..]),
        format!("{id}.{}!", &secret[1..]),
        format!(".{secret}"),
        format!("{}.{secret}", id.replace(|_| true, "G")),
        format!("{}.{secret}", &id[1..]),
    ] {
        assert_eq!(split_secret(&bad).unwrap_err(), TokenError::Secret, "{bad:?}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let token = token();
    let wire = token.secret();
    let secret = wire.split_once('.').unwrap().1;
    let shown = format!("{token:?} {:?}", token.secret_hash());
    assert!(shown.contains("[redacted]") && shown.contains(&token.id));
    assert!(!shown.contains(&secret[..8]));
    assert!(!shown.contains(&crate::hex::encode(&token.secret_hash().as_bytes()[..4])));
}

#[test]
fn damaged_tokens_are_refused() {
    let token = token();
    let (root, id, wire) = (token.root, &token.id, token.secret());
    let secret = wire.split_once('.').unwrap().1;
    let good = format!("10.10.0.2:15012\nshop.example\n{root}\n{id}\n{secret}");
    assert!(JoinToken::parse(&encode(&good)).is_ok());
    for bad in [
        String::new(),
        "\n\n\n\n".into(),
        format!("{good}\n"),
        format!("{good}\nmore"),
        good.replace("shop.example", "SHOP"),
        good.replace(&root.to_string(), "abc"),
        good.replace(id, "xyz"),
        good.replace(secret, ""),
        good.replace(secret, "a b"),
    ] {
        let error = JoinToken::parse(&encode(&bad)).unwrap_err();
        assert!(matches!(error, TokenError::Damaged | TokenError::Address), "{bad:?}: {error}");
    }
    let text = token.format();
    assert_eq!(JoinToken::parse(&text[9..]).unwrap_err(), TokenError::Prefix);
    assert_eq!(JoinToken::parse("isthmus2.abc").unwrap_err(), TokenError::Prefix);
    assert_eq!(JoinToken::parse("").unwrap_err(), TokenError::Prefix);
    assert_eq!(JoinToken::parse(&text[..text.len() - 8]).unwrap_err(), TokenError::Damaged);
    assert_eq!(JoinToken::parse(&format!("isthmus1.{}", "A".repeat(100_000))).unwrap_err(), TokenError::Damaged);
}

#[test]
fn addresses() {
    for good in ["10.10.0.2:15012", "[fd00:10::2]:15012", "control.shop.example:443", "localhost:1"] {
        assert_eq!(check_address(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:+1",
        "fd00::2:15012",
        "[fd00::2]",
        "a b:1",
        "[x]:1",
        "http://x:1",
    ] {
        assert_eq!(check_address(bad), Err(TokenError::Address), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in ".*", body in "[A-Za-z0-9_-]{0,200}") {
        let _ = (JoinToken::parse(&text), split_secret(&text));
        let _ = JoinToken::parse(&format!("isthmus1.{body}"));
    }

    #[test]
    fn any_lines_are_parsed_or_refused(lines in proptest::collection::vec(".{0,20}", 0..8)) {
        let _ = JoinToken::parse(&encode(&lines.join("\n")));
    }
}
