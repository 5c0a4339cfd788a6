use super::*;
use proptest::prelude::*;

fn td(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

#[test]
fn accepts_the_one_form() {
    for (uri, domain, namespace, account) in [
        ("spiffe://shop.example/ns/shop/sa/web", "shop.example", "shop", "web"),
        ("spiffe://cluster.local/ns/isthmus-system/sa/control", "cluster.local", "isthmus-system", "control"),
        ("spiffe://a/ns/b/sa/c", "a", "b", "c"),
        ("spiffe://t_d-1.x/ns/0/sa/a.b-c.d", "t_d-1.x", "0", "a.b-c.d"),
    ] {
        let id = SpiffeId::parse(uri).unwrap_or_else(|e| panic!("{uri}: {e}"));
        assert_eq!(
            (id.trust_domain().as_str(), id.namespace(), id.service_account()),
            (domain, namespace, account),
            "{uri}"
        );
        assert_eq!(id.to_string(), uri);
        assert_eq!(id, SpiffeId::workload(&td(domain), namespace, account).unwrap());
    }
}

#[test]
fn refuses_every_other_spelling() {
    use IdError::*;
    let long_td = format!("spiffe://{}/ns/a/sa/b", "a".repeat(256));
    let long_ns = format!("spiffe://td/ns/{}/sa/b", "a".repeat(64));
    let long_sa = format!("spiffe://td/ns/a/sa/{}", "a".repeat(254));
    for (uri, why) in [
        ("", Scheme),
        ("https://td/ns/a/sa/b", Scheme),
        ("SPIFFE://td/ns/a/sa/b", Scheme),
        ("spiffe:/td/ns/a/sa/b", Scheme),
        (" spiffe://td/ns/a/sa/b", Scheme),
        ("spiffe://", Path),
        ("spiffe://td", Path),
        ("spiffe://td/", Path),
        ("spiffe:///ns/a/sa/b", TrustDomain),
        ("spiffe://TD/ns/a/sa/b", TrustDomain),
        ("spiffe://td:443/ns/a/sa/b", TrustDomain),
        ("spiffe://user@td/ns/a/sa/b", TrustDomain),
        ("spiffe://td..x/ns/a/sa/b", TrustDomain),
        ("spiffe://.td/ns/a/sa/b", TrustDomain),
        ("spiffe://td./ns/a/sa/b", TrustDomain),
        ("spiffe://-td/ns/a/sa/b", TrustDomain),
        ("spiffe://[::1]/ns/a/sa/b", TrustDomain),
        ("spiffe://bücher/ns/a/sa/b", TrustDomain),
        (long_td.as_str(), TrustDomain),
        ("spiffe://td/ns/a", Path),
        ("spiffe://td/ns/a/sa", Path),
        ("spiffe://td/ns/a/sa/b/", Path),
        ("spiffe://td/ns/a/sa/b/c", Path),
        ("spiffe://td//ns/a/sa/b", Path),
        ("spiffe://td/sa/a/ns/b", Path),
        ("spiffe://td/NS/a/sa/b", Path),
        ("spiffe://td/./ns/a/sa/b", Path),
        ("spiffe://td/../td/ns/a/sa/b", Path),
        ("spiffe://td/ns//sa/b", Namespace),
        ("spiffe://td/ns/../sa/b", Namespace),
        ("spiffe://td/ns/A/sa/b", Namespace),
        ("spiffe://td/ns/a.b/sa/b", Namespace),
        ("spiffe://td/ns/a_b/sa/b", Namespace),
        ("spiffe://td/ns/%61/sa/b", Namespace),
        ("spiffe://td/ns/a\0/sa/b", Namespace),
        ("spiffe://td/ns/-a/sa/b", Namespace),
        (long_ns.as_str(), Namespace),
        ("spiffe://td/ns/a/sa/", ServiceAccount),
        ("spiffe://td/ns/a/sa/.", ServiceAccount),
        ("spiffe://td/ns/a/sa/..", ServiceAccount),
        ("spiffe://td/ns/a/sa/B", ServiceAccount),
        ("spiffe://td/ns/a/sa/b?x", ServiceAccount),
        ("spiffe://td/ns/a/sa/b#x", ServiceAccount),
        ("spiffe://td/ns/a/sa/b ", ServiceAccount),
        ("spiffe://td/ns/a/sa/b\n", ServiceAccount),
        ("spiffe://td/ns/a/sa/b%2fc", ServiceAccount),
        (long_sa.as_str(), ServiceAccount),
    ] {
        assert_eq!(SpiffeId::parse(uri).unwrap_err(), why, "{uri:?}");
    }
}

#[test]
fn the_longest_id_fits_the_uri_limit() {
    let id = SpiffeId::workload(&td(&"a".repeat(255)), &"b".repeat(63), &"c".repeat(253)).unwrap();
    assert!(id.as_str().len() <= 2048, "SPIFFE-ID §2.3");
    assert_eq!(id.service_account().len(), 253);
    assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
}

#[test]
fn system_identities_are_told_apart() {
    let td = td("shop.example");
    let control = SpiffeId::control_plane(&td);
    assert_eq!(control.as_str(), "spiffe://shop.example/ns/isthmus-system/sa/control");
    assert!(control.is_control_plane() && control.is_system() && control.operator_name().is_none());
    let operator = SpiffeId::operator(&td, "ada").unwrap();
    assert_eq!(operator.operator_name(), Some("ada"));
    assert!(!operator.is_control_plane());
    let workload = SpiffeId::workload(&td, "shop", "operator-ada").unwrap();
    assert!(!workload.is_system() && workload.operator_name().is_none());
    assert!(!SpiffeId::workload(&td, "shop", "control").unwrap().is_control_plane());
    assert_eq!(SpiffeId::operator(&td, "Ada"), Err(IdError::ServiceAccount));
}

#[test]
fn a_trust_domain_is_a_bare_name() {
    assert_eq!(td("shop.example").uri(), "spiffe://shop.example");
    for bad in ["", ".", "spiffe://x", "a/b", "A", "a b", "a:1"] {
        assert_eq!(TrustDomain::parse(bad), Err(IdError::TrustDomain), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn what_parses_prints_as_it_was(text in "(spiffe://)?[a-z0-9._/-]{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".*") {
        let _ = SpiffeId::parse(&text);
    }
}
