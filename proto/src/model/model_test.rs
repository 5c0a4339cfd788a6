//! What is from the future, or half there, is kept as not understood.

use super::*;
use crate::discovery::v1 as wire;

fn readable_rule() -> wire::Rule {
    wire::Rule { policy: "shop/orders".into(), index: 3, mode: wire::RuleMode::Enforce.into(), ..Default::default() }
}

fn readable_policy() -> wire::PortPolicy {
    wire::PortPolicy {
        transport: wire::Transport::MeshOnly.into(),
        min_tls_version: wire::TlsVersion::TlsVersion12.into(),
        default_action: wire::Action::Allow.into(),
        ..Default::default()
    }
}

fn inbound_with(policy: wire::PortPolicy) -> wire::Resource {
    wire::Resource {
        key: Some(ResourceKey::Inbound.into()),
        body: Some(wire::resource::Body::Inbound(wire::Inbound {
            workload: "shop/orders".into(),
            default_policy: Some(policy),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn read_one(resource: wire::Resource) -> (Option<Resource>, Vec<String>) {
    let message = wire::Delta { upserts: vec![resource], ..Default::default() };
    let (mut delta, problems) = Delta::read(message);
    (delta.upserts.pop(), problems.into_iter().map(|p| p.reason).collect())
}

fn default_policy(resource: Option<Resource>) -> Understood<PortPolicy> {
    match resource.unwrap().body.unwrap() {
        Body::Inbound(inbound) => inbound.default_policy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_from_the_future_is_kept_as_not_understood_and_named() {
    let future = wire::Rule { requires: vec!["weather/v9".into()], ..readable_rule() };
    let policy = wire::PortPolicy { deny: vec![readable_rule(), future], ..readable_policy() };
    let (resource, problems) = read_one(inbound_with(policy));
    let policy = default_policy(resource).unwrap();
    assert!(policy.deny[0].conditions.is_ok());
    assert_eq!(policy.deny[1].index, 3);
    assert_eq!(policy.deny[1].conditions.as_ref().unwrap_err().field, "requires");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("weather/v9") && problems[0].contains("shop/orders[3]"), "{problems:?}");
}

#[test]
fn an_enum_value_from_the_future_is_no_default() {
    for value in [0, 99] {
        let rule = wire::Rule { mode: value, ..readable_rule() };
        assert!(Rule::from(rule).conditions.is_err());
        let policies = [
            wire::PortPolicy { transport: value, ..readable_policy() },
            wire::PortPolicy { default_action: value, ..readable_policy() },
            wire::PortPolicy { min_tls_version: value, ..readable_policy() },
        ];
        for policy in policies {
            let (resource, problems) = read_one(inbound_with(policy));
            assert!(default_policy(resource).is_err());
            assert_eq!(problems.len(), 1);
        }
    }
}

#[test]
fn a_condition_without_values_is_an_error_and_not_a_rule_that_matches_nothing() {
    let rule = wire::Rule { cidrs: Some(wire::Condition::default()), ..readable_rule() };
    assert_eq!(Rule::from(rule).conditions.unwrap_err().field, "cidrs");
}

#[test]
fn half_a_sidecar_is_an_error_and_not_a_plain_endpoint() {
    let endpoint = |mesh_port, identities: &[&str]| wire::Endpoint {
        ip: "10.0.0.1".into(),
        mesh_port,
        identities: identities.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let id = "spiffe://shop.example/ns/shop/sa/web";
    assert_eq!(Endpoint::try_from(endpoint(0, &[])).unwrap().mesh, None);
    assert!(Endpoint::try_from(endpoint(15008, &[id])).unwrap().mesh.is_some());
    assert_eq!(Endpoint::try_from(endpoint(0, &[id])).unwrap_err().field, "mesh_port");
    assert_eq!(Endpoint::try_from(endpoint(15008, &[])).unwrap_err().field, "identities");
    assert_eq!(Endpoint::try_from(endpoint(15008, &["web"])).unwrap_err().field, "identities[0]");
}

#[test]
fn a_body_under_the_wrong_key_is_not_understood() {
    let mut resource = inbound_with(readable_policy());
    resource.key = Some(ResourceKey::Mesh.into());
    let (read, problems) = read_one(resource);
    assert!(read.unwrap().body.is_err());
    assert_eq!(problems.len(), 1);
}

#[test]
fn what_was_not_understood_stays_so_when_written_and_read_again() {
    let policy = wire::PortPolicy { requires: vec!["weather/v9".into()], ..readable_policy() };
    let (resource, _) = read_one(inbound_with(policy));
    let (again, problems) = read_one(resource.unwrap().into());
    assert!(default_policy(again).is_err());
    assert_eq!(problems.len(), 1);
}

#[test]
fn an_error_names_the_field_and_the_reason() {
    let cidrs = wire::Condition { any_of: vec!["10.0.0.0/8".into(), "10.0.0.0/99".into()] };
    let rule = wire::Rule { cidrs: Some(cidrs), ..readable_rule() };
    let error = Rule::from(rule).conditions.unwrap_err().to_string();
    assert!(error.starts_with("cidrs[1]: `10.0.0.0/99`: "), "{error}");
}

#[test]
fn patterns_that_could_be_read_in_two_ways_are_refused() {
    let with_path = |path: &str| {
        let paths = Some(wire::Condition { any_of: vec![path.into()] });
        Rule::from(wire::Rule { paths, ..readable_rule() }).conditions
    };
    for good in ["/", "/a/*", "*", "/a b", "/é", "/a/"] {
        assert!(with_path(good).is_ok(), "{good}");
    }
    for bad in ["a", "/a*b", "/a//b", "/../a", "/a/./b", "/%61", "/a;b", "/a?b", "/a#b", "/a\\b", "/\0", ""] {
        assert!(with_path(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_health_check_that_would_ask_too_often_or_in_other_words_is_refused() {
    use wire::health_check::How;
    let good = wire::HealthCheck {
        how: Some(How::HttpPath("/ready".into())),
        interval_ms: 5_000,
        timeout_ms: 2_000,
        failures: 3,
        successes: 1,
    };
    let read = |health: &wire::HealthCheck| {
        let external = wire::External { health_check: Some(health.clone()), ..Default::default() };
        External::try_from(external).map(|external| external.health).map_err(|e| e.field)
    };
    assert!(read(&good).unwrap().is_some());
    let unknown = wire::HealthCheck { how: None, ..good.clone() };
    assert_eq!(read(&unknown), Ok(None), "a way from the future is no reason to refuse the service");
    let http = |path: &str| wire::HealthCheck { how: Some(How::HttpPath(path.into())), ..good.clone() };
    for (bad, field) in [
        (http("ready"), "http_path"),
        (http("/a b"), "http_path"),
        (http("/a\r\nHost: b"), "http_path"),
        (wire::HealthCheck { how: Some(How::GrpcService("a\n".into())), ..good.clone() }, "grpc_service"),
        (wire::HealthCheck { interval_ms: 10, ..good.clone() }, "interval_ms"),
        (wire::HealthCheck { timeout_ms: 6_000, ..good.clone() }, "timeout_ms"),
        (wire::HealthCheck { timeout_ms: 0, ..good.clone() }, "timeout_ms"),
        (wire::HealthCheck { failures: 0, ..good.clone() }, "failures"),
        (wire::HealthCheck { successes: 101, ..good.clone() }, "successes"),
    ] {
        assert_eq!(read(&bad), Err(format!("health_check.{field}")));
    }
}
