//! The decision as a table, and against an evaluator that reads every rule.

use std::net::{IpAddr, SocketAddr};

use isthmus_proto::model::{
    self, Action, EgressConditions, EgressDefault, EgressRule, HostPattern, ModelError, RuleMode, TlsVersion, Transport,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{Egress, Leaving, host_of};
use crate::reason::Reason;
use crate::state::policy::Arrived;

fn tls(version: TlsVersion) -> Arrived {
    Arrived::AppTls { version: Some(version), declared: false }
}

fn rule(hosts: &[&str], cidrs: &[&str], ports: &[u16]) -> EgressRule {
    let some = |empty: bool| (!empty).then_some(());
    EgressRule {
        policy: "shop/out".to_owned(),
        index: 0,
        mode: RuleMode::Enforce,
        conditions: Ok(EgressConditions {
            hosts: some(hosts.is_empty()).map(|()| hosts.iter().map(|h| h.parse().unwrap()).collect()),
            cidrs: some(cidrs.is_empty()).map(|()| cidrs.iter().map(|c| c.parse().unwrap()).collect()),
            ports: some(ports.is_empty()).map(|()| ports.to_vec()),
            transport: None,
            min_tls_version: None,
        }),
    }
}

fn numbered(rules: Vec<EgressRule>) -> Vec<EgressRule> {
    rules.into_iter().zip(0..).map(|(rule, index)| EgressRule { index, ..rule }).collect()
}

fn egress(deny: Vec<EgressRule>, allow: Vec<EgressRule>, action: Action, transport: Transport) -> Egress {
    let enforced = EgressDefault { action, transport, ..EgressDefault::default() };
    Egress::from(model::Egress { deny: numbered(deny), allow: numbered(allow), enforced, audited: None })
}

fn ask(egress: &Egress, to: &str, host: Option<&str>, arrived: Arrived) -> Result<bool, Reason> {
    let verdict = egress.decide(&Leaving { to: to.parse().unwrap(), host, arrived });
    verdict.refused.map_or(Ok(verdict.by_host), Err)
}

#[test]
fn an_allow_list_of_names_lets_through_these_names_and_no_others() {
    let list = vec![rule(&["api.example.com", "*.cdn.example"], &[], &[443]), rule(&[], &["192.0.2.0/24"], &[5432])];
    let egress = egress(vec![], list, Action::Deny, Transport::Permissive);
    let at = "198.51.100.7:443";
    for (to, host, expected) in [
        (at, Some("api.example.com"), Ok(true)),
        (at, Some("a.cdn.example"), Ok(true)),
        (at, Some("a.b.cdn.example"), Ok(true)),
        (at, Some("cdn.example"), Err(Reason::NotAllowed)),
        (at, Some("evilcdn.example"), Err(Reason::NotAllowed)),
        (at, Some("api.example.com.evil.example"), Err(Reason::NotAllowed)),
        (at, None, Err(Reason::NotAllowed)),
        ("198.51.100.7:80", Some("api.example.com"), Err(Reason::NotAllowed)),
        ("192.0.2.9:5432", None, Ok(false)),
        ("[::ffff:192.0.2.9]:5432", None, Ok(false)),
        ("192.0.3.9:5432", None, Err(Reason::NotAllowed)),
    ] {
        assert_eq!(ask(&egress, to, host, Arrived::Plain), expected, "{to} {host:?}");
    }
}

#[test]
fn a_deny_wins_and_an_unseen_name_satisfies_it() {
    let deny = vec![rule(&["*.evil.example"], &[], &[443])];
    let egress = egress(deny, vec![rule(&[], &["192.0.2.0/24"], &[])], Action::Allow, Transport::Permissive);
    let at = "192.0.2.1:443";
    assert_eq!(ask(&egress, at, Some("a.evil.example"), Arrived::Plain), Err(Reason::DeniedByRule));
    assert_eq!(ask(&egress, at, None, Arrived::Plain), Err(Reason::DeniedByRule));
    assert_eq!(ask(&egress, at, Some("good.example"), Arrived::Plain), Ok(false));
    assert_eq!(ask(&egress, "192.0.2.1:80", None, Arrived::Plain), Ok(false));
}

#[test]
fn tls_only_refuses_plain_bytes_and_old_versions_and_an_allow_may_say_otherwise() {
    let mut plain = rule(&["old.example"], &[], &[]);
    plain.conditions.as_mut().unwrap().transport = Some(Transport::Permissive);
    let mut newest = rule(&["new.example"], &[], &[]);
    newest.conditions.as_mut().unwrap().min_tls_version = Some(TlsVersion::V1_3);
    let egress = egress(vec![], vec![plain, newest], Action::Allow, Transport::HttpsOnly);
    let at = "192.0.2.1:80";
    for (host, arrived, expected) in [
        (Some("a.example"), Arrived::Plain, Err(Reason::Plaintext)),
        (None, Arrived::Plain, Err(Reason::Plaintext)),
        (Some("a.example"), tls(TlsVersion::V1_1), Err(Reason::TlsVersion)),
        (Some("a.example"), tls(TlsVersion::V1_2), Ok(false)),
        (None, tls(TlsVersion::V1_2), Ok(false)),
        (Some("old.example"), Arrived::Plain, Ok(true)),
        (Some("new.example"), tls(TlsVersion::V1_2), Err(Reason::TlsVersion)),
        (Some("new.example"), tls(TlsVersion::V1_3), Ok(true)),
        (Some("a.example"), Arrived::AppTls { version: None, declared: true }, Err(Reason::TlsVersion)),
    ] {
        assert_eq!(ask(&egress, at, host, arrived), expected, "{host:?} {arrived:?}");
    }
    assert!(egress.restricts_udp());
}

#[test]
fn another_name_at_an_address_that_is_for_one_is_called_a_mismatch() {
    let allow = vec![rule(&["db.example"], &["192.0.2.5/32"], &[443])];
    let egress = egress(vec![], allow, Action::Deny, Transport::Permissive);
    let at = "192.0.2.5:443";
    assert_eq!(ask(&egress, at, Some("db.example"), Arrived::Plain), Ok(true));
    assert_eq!(ask(&egress, at, Some("evil.example"), Arrived::Plain), Err(Reason::NameMismatch));
    assert_eq!(ask(&egress, at, None, Arrived::Plain), Err(Reason::NotAllowed));
    assert_eq!(ask(&egress, "192.0.2.6:443", Some("db.example"), Arrived::Plain), Err(Reason::NotAllowed));
}

#[test]
fn what_cannot_be_read_refuses() {
    let future = EgressRule { conditions: Err(ModelError::new("requires", "egress/v9")), ..rule(&[], &[], &[1]) };
    let denied = egress(vec![future.clone()], vec![], Action::Allow, Transport::Permissive);
    assert_eq!(ask(&denied, "192.0.2.1:80", Some("a.example"), Arrived::Plain), Err(Reason::UnknownFeature));
    let allowed = egress(vec![], vec![future], Action::Deny, Transport::Permissive);
    assert_eq!(ask(&allowed, "192.0.2.1:80", Some("a.example"), Arrived::Plain), Err(Reason::NotAllowed));
    let whole = Egress::refusing("too new");
    assert_eq!(ask(&whole, "192.0.2.1:80", None, Arrived::Plain), Err(Reason::UnknownFeature));
    assert!(whole.restricts_udp() && !whole.is_open());
}

#[test]
fn audit_lets_through_and_tells() {
    let audited = EgressRule { mode: RuleMode::Audit, ..rule(&["a.example"], &[], &[]) };
    let egress = Egress::from(model::Egress {
        deny: vec![],
        allow: vec![audited],
        enforced: EgressDefault::default(),
        audited: Some(EgressDefault {
            action: Action::Deny,
            action_from: Some("shop/try".to_owned()),
            ..EgressDefault::default()
        }),
    });
    let to = "192.0.2.1:443".parse().unwrap();
    let verdict = egress.decide(&Leaving { to, host: Some("b.example"), arrived: Arrived::Plain });
    assert_eq!((verdict.refused, verdict.audit), (None, Some((Reason::NotAllowed, Some("shop/try".into())))));
    let verdict = egress.decide(&Leaving { to, host: Some("a.example"), arrived: Arrived::Plain });
    assert_eq!((verdict.refused, verdict.audit), (None, None));
    assert!(!egress.restricts_udp());
}

#[test]
fn nobody_who_says_nothing_restricts_anything() {
    let nothing = model::Egress { deny: vec![], allow: vec![], enforced: EgressDefault::default(), audited: None };
    assert!(Egress::from(nothing).is_open());
}

#[test]
fn names_are_read_in_one_way() {
    for (written, read) in [
        ("API.Example.com", Some("api.example.com")),
        ("api.example.com.:8443", Some("api.example.com")),
        ("api.example.com:", Some("api.example.com")),
        ("192.0.2.1", None),
        ("192.0.2.1:80", None),
        ("[2001:db8::1]:80", None),
        ("2001:db8::1", None),
        ("a..b", None),
        ("", None),
        (".", None),
        ("a b", None),
        ("a@b", None),
        ("a/b", None),
        ("api.example.com:80:80", None),
    ] {
        assert_eq!(host_of(written).as_deref(), read, "{written}");
    }
}

/// Every rule in its order, every condition as it is written.
fn naive(policies: &model::Egress, leaving: &Leaving<'_>, default: &EgressDefault, audit: bool) -> Option<Reason> {
    let fits = |host: &HostPattern, name: &str| match host {
        HostPattern::Exact(exact) => exact == name,
        HostPattern::Suffix(suffix) => name.ends_with(suffix.as_str()),
    };
    let address = |c: &EgressConditions| {
        let ip = leaving.to.ip().to_canonical();
        c.cidrs.as_ref().is_none_or(|list| list.iter().any(|net| net.contains(&ip)))
            && c.ports.as_ref().is_none_or(|list| list.contains(&leaving.to.port()))
    };
    let named = |c: &EgressConditions, unknown: bool| match (&c.hosts, leaving.host) {
        (None, _) => true,
        (Some(_), None) => unknown,
        (Some(hosts), Some(name)) => hosts.iter().any(|host| fits(host, name)),
    };
    let counts = |rule: &&EgressRule| audit || rule.mode == RuleMode::Enforce;
    for rule in policies.deny.iter().filter(counts) {
        match &rule.conditions {
            Err(_) => return Some(Reason::UnknownFeature),
            Ok(c) if named(c, true) && address(c) => return Some(Reason::DeniedByRule),
            Ok(_) => {}
        }
    }
    let carried = |transport: Option<Transport>, min: Option<TlsVersion>| {
        let (transport, min) = (transport.unwrap_or(default.transport), min.unwrap_or(default.min_tls_version));
        match (transport, leaving.arrived) {
            (Transport::Permissive, _) => None,
            (_, Arrived::AppTls { version: Some(version), .. }) if version >= min => None,
            (_, Arrived::AppTls { .. }) => Some(Reason::TlsVersion),
            _ => Some(Reason::Plaintext),
        }
    };
    let readable = policies.allow.iter().filter(counts).filter_map(|rule| rule.conditions.as_ref().ok());
    let mut mismatch = false;
    for c in readable {
        if named(c, false) && address(c) {
            return carried(c.transport, c.min_tls_version);
        }
        mismatch |= c.hosts.is_some() && leaving.host.is_some() && c.cidrs.is_some() && address(c);
    }
    match default.action {
        Action::Allow => carried(None, None),
        Action::Deny if mismatch => Some(Reason::NameMismatch),
        Action::Deny => Some(Reason::NotAllowed),
    }
}

fn any_host() -> impl Strategy<Value = String> {
    "[ab](\\.[ab]){0,2}"
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(a, b)| IpAddr::from([192, 0, a, b])),
        (0u16..4).prop_map(|a| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, a])),
    ]
}

prop_compose! {
    fn any_rule()(
        hosts in option::of(vec(prop_oneof![
            any_host().prop_map(HostPattern::Exact),
            any_host().prop_map(|host| HostPattern::Suffix(format!(".{host}"))),
        ], 1..3)),
        cidrs in option::of(vec((any_ip(), 20u8..=32).prop_map(|(ip, length)| ipnet::IpNet::new(ip, length).unwrap()), 1..3)),
        ports in option::of(vec(1u16..4, 1..3)),
        transport in option::of(prop::sample::select(vec![Transport::Permissive, Transport::HttpsOnly])),
        min_tls_version in option::of(prop::sample::select(vec![TlsVersion::V1_1, TlsVersion::V1_3])),
        audit in prop::bool::weighted(0.3),
        unreadable in prop::bool::weighted(0.05),
    ) -> EgressRule {
        let conditions = EgressConditions { hosts, cidrs, ports, transport, min_tls_version };
        EgressRule {
            policy: "p/q".to_owned(),
            index: 0,
            mode: if audit { RuleMode::Audit } else { RuleMode::Enforce },
            conditions: if unreadable { Err(ModelError::new("requires", "newer")) } else { Ok(conditions) },
        }
    }
}

prop_compose! {
    fn any_default()(deny: bool, https: bool) -> EgressDefault {
        EgressDefault {
            action: if deny { Action::Deny } else { Action::Allow },
            transport: if https { Transport::HttpsOnly } else { Transport::Permissive },
            ..EgressDefault::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_index_decides_as_reading_every_rule_does(
        (deny, allow) in (vec(any_rule(), 0..4), vec(any_rule(), 0..5)),
        (enforced, audited) in (any_default(), option::of(any_default())),
        (ip, port, host) in (any_ip(), 1u16..4, option::of(any_host())),
        version in option::of(prop::sample::select(vec![TlsVersion::V1_0, TlsVersion::V1_2, TlsVersion::V1_3])),
    ) {
        let policies = model::Egress { deny: numbered(deny), allow: numbered(allow), enforced, audited };
        let arrived = version.map_or(Arrived::Plain, tls);
        let leaving = Leaving { to: SocketAddr::new(ip, port), host: host.as_deref(), arrived };
        let verdict = Egress::from(policies.clone()).decide(&leaving);
        let expected = naive(&policies, &leaving, &policies.enforced, false);
        prop_assert_eq!(verdict.refused, expected);
        if let (None, Some(audited)) = (expected, &policies.audited) {
            prop_assert_eq!(verdict.audit.map(|(reason, _)| reason), naive(&policies, &leaving, audited, true));
        }
    }
}
