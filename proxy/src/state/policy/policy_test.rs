//! Decisions, by table.

use http::HeaderMap;
use isthmus_certs::SpiffeId;
use isthmus_proto::model::{
    Action, Conditions, HeaderMatch, HostPattern, IdentityPattern, ModelError, PortPolicy, Rule, RuleMode, ServiceName,
    TlsVersion, Transport,
};

use super::explain::{sentence, yaml_that_would_allow};
use super::*;

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.example/ns/shop/sa/{account}")).unwrap()
}

pub(super) fn rule(index: u32, conditions: Conditions) -> Rule {
    Rule { policy: "shop/orders".into(), index, mode: RuleMode::Enforce, until_ms: None, conditions: Ok(conditions) }
}

fn audit(index: u32, conditions: Conditions) -> Rule {
    Rule { mode: RuleMode::Audit, ..rule(index, conditions) }
}

fn future(index: u32) -> Rule {
    Rule { conditions: Err(ModelError::new("requires", "weather/v9")), ..rule(index, Conditions::default()) }
}

pub(super) fn policy(deny: Vec<Rule>, allow: Vec<Rule>, default_action: Action) -> PortPolicy {
    PortPolicy {
        transport: Transport::MeshOnly,
        min_tls_version: TlsVersion::V1_2,
        deny,
        allow,
        default_action,
        default_from: Some("shop/base".into()),
    }
}

fn from(account: &str) -> Conditions {
    Conditions { identities: Some(vec![IdentityPattern::Exact(id(account))]), ..Default::default() }
}

fn on_path(path: &str) -> Conditions {
    Conditions { paths: Some(vec![path.parse().unwrap()]), ..Default::default() }
}

fn facts<'a>(peer: Option<&'a SpiffeId>, http: Option<HttpFacts<'a>>) -> Facts<'a> {
    Facts {
        peer,
        foreign: false,
        peer_ip: "10.10.1.10".parse().unwrap(),
        peer_site: Some("azure-eastus"),
        behind: None,
        port: 8080,
        now_ms: 0,
        http,
    }
}

pub(super) fn request<'a>(headers: &'a HeaderMap, method: &'a str, path: &'a str) -> HttpFacts<'a> {
    HttpFacts { host: Some("Orders.shop:8080"), method, path, headers }
}

/// A decision borrows from its policy; a test's policies may stay.
fn decided(policy: PortPolicy, facts: &Facts) -> Decision<'static> {
    decide(Box::leak(Box::new(CompiledPolicy::new(policy))), facts)
}

/// (allowed, reason, policy, rule)
fn short(d: &Decision<'static>) -> (bool, Option<Reason>, Option<&'static str>, Option<u32>) {
    (d.allowed, d.reason, d.policy, d.rule)
}

#[test]
fn a_deny_wins_then_an_allow_then_the_default() {
    let web = id("web");
    let facts = facts(Some(&web), None);
    let any = Conditions::default;
    let both = policy(vec![rule(0, from("batch")), rule(1, any())], vec![rule(0, any())], Action::Allow);
    assert_eq!(short(&decided(both, &facts)), (false, Some(Reason::DeniedByRule), Some("shop/orders"), Some(1)));
    let allowed = policy(vec![rule(0, from("batch"))], vec![rule(4, from("web"))], Action::Deny);
    assert_eq!(short(&decided(allowed, &facts)), (true, None, Some("shop/orders"), Some(4)));
    let none = policy(vec![], vec![rule(0, from("batch"))], Action::Deny);
    assert_eq!(short(&decided(none, &facts)), (false, Some(Reason::NotAllowed), Some("shop/base"), None));
    let open = policy(vec![], vec![], Action::Allow);
    assert_eq!(short(&decided(open, &facts)), (true, None, Some("shop/base"), None));
}

#[test]
fn what_is_unknown_never_allows_and_always_denies() {
    let plain = facts(None, None);
    for condition in [
        from("web"),
        on_path("/x"),
        Conditions { methods: Some(vec!["GET".into()]), ..Default::default() },
        Conditions { hosts: Some(vec![HostPattern::Exact("orders.shop".into())]), ..Default::default() },
        Conditions { namespaces: Some(vec!["shop".into()]), ..Default::default() },
        Conditions { headers: vec![HeaderMatch { name: "x-team".into(), any_of: vec![] }], ..Default::default() },
    ] {
        let allow = policy(vec![], vec![rule(0, condition.clone())], Action::Deny);
        assert!(!decided(allow, &plain).allowed, "{condition:?}");
        let deny = policy(vec![rule(0, condition.clone())], vec![], Action::Allow);
        assert!(!decided(deny, &plain).allowed, "{condition:?}");
    }
}

#[test]
fn one_known_mismatch_is_enough_to_keep_a_deny_from_matching() {
    let conditions = Conditions { ports: Some(vec![9090]), ..on_path("/x") };
    let deny = policy(vec![rule(0, conditions)], vec![], Action::Allow);
    assert!(decided(deny, &facts(None, None)).allowed);
}

#[test]
fn a_rule_from_the_future_refuses_on_either_side() {
    let web = id("web");
    let facts = facts(Some(&web), None);
    let deny = policy(vec![future(2)], vec![rule(0, Conditions::default())], Action::Allow);
    let unknown = Some(Reason::UnknownFeature);
    assert_eq!(short(&decided(deny, &facts)), (false, unknown, Some("shop/orders"), Some(2)));
    for default in [Action::Allow, Action::Deny] {
        let allow = policy(vec![], vec![future(7), rule(8, from("batch"))], default);
        assert_eq!(short(&decided(allow, &facts)), (false, unknown, Some("shop/orders"), Some(7)));
    }
    // It could only have allowed more: what another rule allows passes.
    let beside = policy(vec![], vec![future(7), rule(8, from("web"))], Action::Deny);
    assert!(decided(beside, &facts).allowed);
}

#[test]
fn audit_rules_never_refuse_and_never_grant_and_are_reported() {
    let web = id("web");
    let facts = facts(Some(&web), None);
    let denied = decided(policy(vec![audit(5, from("web"))], vec![], Action::Allow), &facts);
    assert!(denied.allowed);
    let finding = denied.audit.unwrap();
    assert_eq!((finding.reason, finding.rule), (Reason::DeniedByRule, Some(5)));
    let closed = decided(policy(vec![], vec![audit(0, from("batch"))], Action::Allow), &facts);
    assert!(closed.allowed);
    assert_eq!(closed.audit.unwrap().reason, Reason::NotAllowed);
    let granted = decided(policy(vec![], vec![audit(0, from("web"))], Action::Deny), &facts);
    assert!(!granted.allowed && granted.audit.is_none());
    let fine = decided(policy(vec![], vec![audit(0, from("web"))], Action::Allow), &facts);
    assert!(fine.allowed && fine.audit.is_none());
}

#[test]
fn a_policy_that_refuses_gives_its_reason_whatever_the_facts() {
    let policy = CompiledPolicy::refusing(Reason::NotReady, "no snapshot yet");
    let web = id("web");
    assert_eq!(decide(&policy, &facts(Some(&web), None)).reason, Some(Reason::NotReady));
    assert_eq!(check_transport(&policy, Arrived::Mesh), Err(Reason::NotReady));
    assert_eq!(policy.refusal_detail(), Some("no snapshot yet"));
}

#[test]
fn transport_levels() {
    use Transport::{HttpsOnly, MeshOnly, Permissive};
    let tls = |version, declared| Arrived::AppTls { version, declared };
    let (old, good) = (Some(TlsVersion::V1_1), Some(TlsVersion::V1_3));
    for (transport, how, expected) in [
        (MeshOnly, Arrived::Mesh, Ok(())),
        (MeshOnly, Arrived::Plain, Err(Reason::Plaintext)),
        (MeshOnly, tls(good, true), Err(Reason::MeshOnly)),
        (HttpsOnly, Arrived::Mesh, Ok(())),
        (HttpsOnly, Arrived::Plain, Err(Reason::Plaintext)),
        (HttpsOnly, tls(good, true), Ok(())),
        (HttpsOnly, tls(Some(TlsVersion::V1_2), true), Ok(())),
        (HttpsOnly, tls(old, true), Err(Reason::TlsVersion)),
        (HttpsOnly, tls(None, true), Err(Reason::TlsVersion)),
        (HttpsOnly, tls(good, false), Err(Reason::TlsNotDeclared)),
        (Permissive, Arrived::Plain, Ok(())),
        (Permissive, tls(old, false), Ok(())),
    ] {
        let policy = CompiledPolicy::new(PortPolicy { transport, ..policy(vec![], vec![], Action::Allow) });
        assert_eq!(check_transport(&policy, how), expected, "{transport:?} {how:?}");
    }
}

#[test]
fn paths_that_apps_read_differently_never_allow_and_always_deny() {
    let headers = HeaderMap::new();
    let verdict = |pattern: &str, path: &str| {
        let facts = facts(None, Some(request(&headers, "GET", path)));
        let allows = decided(policy(vec![], vec![rule(0, on_path(pattern))], Action::Deny), &facts).allowed;
        let denies = !decided(policy(vec![rule(0, on_path(pattern))], vec![], Action::Allow), &facts).allowed;
        (allows, denies)
    };
    let (yes, no, unknown) = ((true, true), (false, false), (false, true));
    for (pattern, path, expected) in [
        ("/admin", "/admin", yes),
        ("/admin", "/admin?x=/y", yes),
        ("/admin", "/Admin", unknown),
        ("/admin", "/admin/", unknown),
        ("/admin", "/administer", no),
        ("/admin*", "/admin/users", yes),
        ("/admin*", "/ADMIN/users", unknown),
        ("/admin", "/%61dmin", yes),
        ("/admin*", "/admin;x=1/users", yes),
        ("/admin/users", "/admin;x=1/users", unknown),
        ("/users/*", "/users/a%40b.com", yes),
        ("/users/*", "/users/caf%C3%a9", yes),
        ("/users/*", "/orders/a%40b", no),
        ("/admin", "//admin", yes),
        ("/admin", "/x/../admin", yes),
        ("/admin", "/./admin", yes),
        ("/admin", "/x/%2e%2e/admin", yes),
        ("/admin", "/x/%2E./admin", yes),
        ("/other", "/x/%2e%2e/admin", no),
        ("/admin", "/x/..;/admin", unknown),
        ("/other", "/../admin", unknown),
        ("/other", "/x%2Fadmin", unknown),
        ("/other", "/x%5cadmin", unknown),
        ("/other", "/x\\admin", unknown),
        ("/other", "/x%00", unknown),
        ("/other", "/%252e", unknown),
        ("/other", "/%zz", unknown),
        ("/other", "/%2", unknown),
        ("/other", "*", unknown),
        ("/other", "", unknown),
        ("/other", "http://x/other", unknown),
        ("/other", "/other#x", unknown),
        ("/orders/{id}", "/orders/17", yes),
        ("/orders/{id}", "/orders/%31%37", yes),
        ("/orders/{id}", "/orders/17/", unknown),
        ("/orders/{id}", "/Orders/17", unknown),
        ("/orders/{id}", "/orders", no),
        ("/orders/{id}", "/orders/", no),
        ("/orders/{id}", "/orders/17/items", no),
        ("/orders/{id}/items", "/orders/17/items", yes),
        ("/orders/{id}/*", "/orders/17/items/3", yes),
        ("/orders/{id}/*", "/orders/17", unknown),
        ("/orders/{id}", "/orders/x/../17", yes),
    ] {
        assert_eq!(verdict(pattern, path), expected, "{pattern} against {path}");
    }
}

#[test]
fn hosts_methods_and_headers() {
    let mut headers = HeaderMap::new();
    headers.append("x-team", "blue".parse().unwrap());
    headers.append("x-role", "admin, guest".parse().unwrap());
    headers.append("x-two", "a".parse().unwrap());
    headers.append("x-two", "b".parse().unwrap());
    let facts = facts(None, Some(request(&headers, "get", "/")));
    let verdict = |c: Conditions| {
        let allows = decided(policy(vec![], vec![rule(0, c.clone())], Action::Deny), &facts).allowed;
        (allows, !decided(policy(vec![rule(0, c)], vec![], Action::Allow), &facts).allowed)
    };
    let header = |name: &str, any_of: &[&str]| Conditions {
        headers: vec![HeaderMatch { name: name.into(), any_of: any_of.iter().map(ToString::to_string).collect() }],
        ..Default::default()
    };
    let host = |h| Conditions { hosts: Some(vec![h]), ..Default::default() };
    let method = |m: &str| Conditions { methods: Some(vec![m.into()]), ..Default::default() };
    let (yes, no, unknown) = ((true, true), (false, false), (false, true));
    assert_eq!(verdict(host(HostPattern::Exact("orders.shop".into()))), yes);
    assert_eq!(verdict(host(HostPattern::Suffix(".shop".into()))), yes);
    assert_eq!(verdict(host(HostPattern::Suffix(".orders.shop".into()))), no);
    assert_eq!(verdict(method("get")), yes);
    assert_eq!(verdict(method("GET")), unknown);
    assert_eq!(verdict(method("PUT")), no);
    assert_eq!(verdict(header("x-team", &[])), yes);
    assert_eq!(verdict(header("x-team", &["blue", "red"])), yes);
    assert_eq!(verdict(header("x-team", &["red"])), no);
    assert_eq!(verdict(header("x-none", &["red"])), no);
    assert_eq!(verdict(header("x-role", &["admin"])), unknown);
    assert_eq!(verdict(header("x-two", &["a"])), unknown);
    assert_eq!(verdict(header("x-two", &["a", "b"])), yes);
}

#[test]
fn the_yaml_that_would_allow_names_the_caller_and_no_more() {
    let web = id("web");
    let headers = HeaderMap::new();
    let facts = facts(Some(&web), Some(request(&headers, "POST", "/orders?id=\"7\"")));
    let service: ServiceName = "shop/orders".parse().unwrap();
    let refused = decided(policy(vec![], vec![rule(0, from("batch"))], Action::Deny), &facts);
    let yaml = yaml_that_would_allow(&refused, &facts, &service).unwrap();
    // Another request of the same caller gets a policy of another name, which does not replace this one.
    let other = Facts { port: 8081, ..facts };
    let hash = |yaml: &str| yaml.split("orders-allow-web-").nth(1).and_then(|rest| rest.get(..8)).unwrap().to_owned();
    let other = hash(&yaml_that_would_allow(&refused, &other, &service).unwrap());
    assert_ne!(hash(&yaml), other);
    assert_eq!(
        yaml.replace(&hash(&yaml), "HASH"),
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\n\
         metadata: { namespace: shop, name: orders-allow-web-HASH }\nspec:\n  services: [orders]\n  allow:\n    \
         - from: { identities: [\"spiffe://shop.example/ns/shop/sa/web\"] }\n      \
         to: { ports: [8080], methods: [\"POST\"], paths: [\"/orders\"] }\n"
    );
    assert!(sentence(&refused).contains("shop/base"));
    let denied = decided(policy(vec![rule(3, from("web"))], vec![], Action::Allow), &facts);
    assert_eq!(yaml_that_would_allow(&denied, &facts, &service), None);
    assert!(sentence(&denied).contains("shop/orders refuses it in spec.deny[3]"));
}

#[test]
fn an_identity_of_another_trust_domain_needs_an_allow_that_names_it() {
    let vault = SpiffeId::parse("spiffe://bank.example/ns/shop/sa/vault").unwrap();
    let foreign = Facts { foreign: true, ..facts(Some(&vault), None) };
    let named =
        |id: &SpiffeId| Conditions { identities: Some(vec![IdentityPattern::Exact(id.clone())]), ..Default::default() };
    let namespace = || Conditions { namespaces: Some(vec!["shop".to_owned()]), ..Default::default() };
    let allowed = |policy: PortPolicy| decided(policy, &foreign).allowed;
    assert!(!allowed(policy(vec![], vec![], Action::Allow)), "no default speaks of it");
    assert!(allowed(policy(vec![], vec![rule(0, named(&vault))], Action::Deny)));
    assert!(!allowed(policy(vec![], vec![rule(0, named(&id("vault")))], Action::Allow)), "the same path in our domain");
    assert!(!allowed(policy(vec![], vec![rule(0, namespace())], Action::Allow)), "it is in no namespace of ours");
    let denied = policy(vec![rule(0, namespace())], vec![rule(1, named(&vault))], Action::Allow);
    assert!(!allowed(denied), "which namespace it is in cannot be told, and a deny holds then");
}
