//! The list that fits, and what is left out of it.

use isthmus_proto::admin::v1::RecordedFlow;

use super::*;

fn flow(account: &str, method: &str, path: &str, count: u64) -> Flow {
    Flow {
        identity: format!("spiffe://shop.example/ns/shop/sa/{account}"),
        address: "10.10.1.10".into(),
        port: 8080,
        transport: Transport::Mesh.into(),
        method: method.into(),
        path: path.into(),
        verdict: Verdict::Allowed.into(),
        count,
        first_seen_unix_ms: 1,
        last_seen_unix_ms: 1_800_000_000_000,
        ..Default::default()
    }
}

fn suggested(flows: Vec<Flow>) -> (String, Vec<String>) {
    let target = Target { namespace: "shop".into(), service: "orders".into() };
    let record = |flow| RecordedFlow { workload: "shop/orders".into(), flow: Some(flow), ..Default::default() };
    let records: Vec<_> = flows.into_iter().map(record).collect();
    let suggested = suggest(&target, &records);
    (suggested.yaml(&target), suggested.notes)
}

#[test]
fn callers_that_do_the_same_share_a_rule_and_the_yaml_is_one_that_apply_takes() {
    let (yaml, notes) = suggested(vec![
        flow("web", "GET", "/orders/{id}", 100),
        flow("web", "GET", "/health", 2),
        flow("app", "GET", "/orders/{id}", 7),
        flow("app", "GET", "/health", 7),
        flow("web", "POST", "/orders", 3),
        Flow { verdict: Verdict::WouldRefuse.into(), ..flow("batch", "", "", 1) },
    ]);
    assert_eq!(yaml.matches("- from:").count(), 3, "{yaml}");
    assert!(yaml.contains("sa/app\", \"spiffe://shop.example/ns/shop/sa/web"), "{yaml}");
    assert!(yaml.contains("methods: [\"GET\"], paths: [\"/health\", \"/orders/{id}\"]"), "{yaml}");
    assert!(yaml.contains("# seen once: batch") && yaml.contains("mode: Audit"), "{yaml}");
    assert!(!yaml.contains('*'), "never a wildcard: {yaml}");
    assert_eq!(notes.len(), 1, "{notes:?}");
    let (parsed, problems) = isthmus_control::validate::parse("-", &yaml);
    assert_eq!((parsed.len(), problems), (1, vec![]), "{yaml}");
}

#[test]
fn what_cannot_be_named_is_said_and_left_out() {
    let (yaml, notes) = suggested(vec![
        flow("web", "GET", "/", 2),
        flow("web", "GET", "other", 2),
        flow("web", "GET", "unclear", 2),
        Flow { verdict: Verdict::Refused.into(), ..flow("thief", "GET", "/", 9) },
        Flow { identity: String::new(), transport: Transport::Plaintext.into(), ..flow("", "GET", "/", 9) },
    ]);
    assert_eq!(yaml.matches("- from:").count(), 1, "{yaml}");
    assert!(!yaml.contains("thief") && !yaml.contains("other") && !yaml.contains("unclear"), "{yaml}");
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("10.10.1.10 comes by plaintext")), "{notes:?}");
}
