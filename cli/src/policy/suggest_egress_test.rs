//! The list of places that fits, and what is left out of it.

use isthmus_proto::admin::v1::RecordedFlow;

use super::*;

fn left(host: &str, port: u32, count: u64) -> Departure {
    Departure {
        host: host.into(),
        read: true,
        address: "203.0.113.10".into(),
        port,
        transport: Transport::Tls.into(),
        tls_version: "1.3".into(),
        verdict: Verdict::WouldRefuse.into(),
        count,
        last_seen_unix_ms: 1_800_000_000_000,
        ..Default::default()
    }
}

fn suggested(all: Vec<Departure>, labels: &[(&str, &str)]) -> (String, Vec<String>) {
    let target = Target { namespace: "shop".into(), service: "orders".into() };
    let record = |left| RecordedFlow { workload: "shop/orders".into(), departure: Some(left), ..Default::default() };
    let records: Vec<_> = all.into_iter().map(record).collect();
    let suggested = suggest(&records);
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    (suggested.yaml(&target, &labels), suggested.notes.into_iter().collect())
}

#[test]
fn places_that_are_used_alike_share_a_rule_and_the_yaml_is_one_that_apply_takes() {
    let (yaml, notes) = suggested(
        vec![
            left("api.example", 443, 5),
            left("files.cdn.example", 443, 2),
            left("", 8443, 4),
            Departure { tls_version: "1.1".into(), ..left("old.example", 443, 3) },
            Departure {
                transport: Transport::Plaintext.into(),
                tls_version: String::new(),
                ..left("mirror.example", 80, 1)
            },
            Departure { address: "2001:db8::7".into(), ..left("", 5432, 2) },
        ],
        &[("app", "orders")],
    );
    let (parsed, problems) = isthmus_control::validate::parse("-", &yaml);
    assert_eq!((parsed.len(), problems), (1, vec![]), "{yaml}");
    for line in [
        "workloads: { matchLabels: {\"app\":\"orders\"} }",
        "mode: Audit",
        "- { hosts: [\"api.example\", \"files.cdn.example\"], ports: [443], transport: HttpsOnly }",
        "- { hosts: [\"old.example\"], ports: [443], transport: HttpsOnly, minTlsVersion: \"1.1\" }",
        "- { hosts: [\"mirror.example\"], ports: [80], transport: Permissive }",
        "- { cidrs: [\"203.0.113.10/32\"], ports: [8443], transport: HttpsOnly }",
        "- { cidrs: [\"2001:db8::7/128\"], ports: [5432], transport: HttpsOnly }",
        "# seen once: mirror.example",
    ] {
        assert!(yaml.contains(line), "{line}\n{yaml}");
    }
    assert!(!yaml.contains('*'), "never a wildcard: {yaml}");
    assert!(notes.iter().any(|note| note == "mirror.example:80 is spoken to in plaintext"), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("mirror.example:80 was seen once")), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("203.0.113.10:8443: no name was shown")), "{notes:?}");
}

#[test]
fn what_was_refused_or_cannot_be_named_is_left_out() {
    let unread = Departure {
        read: false,
        transport: Transport::Unspecified.into(),
        tls_version: String::new(),
        ..left("", 443, 2)
    };
    let (yaml, notes) = suggested(
        vec![
            unread,
            Departure { verdict: Verdict::Refused.into(), ..left("thief.example", 443, 9) },
            left("other", 443, 2),
            Departure { address: String::new(), ..left("", 443, 2) },
        ],
        &[],
    );
    assert!(!yaml.contains("thief") && !yaml.contains("other") && !yaml.contains("workloads"), "{yaml}");
    assert!(yaml.contains("    - { cidrs: [\"203.0.113.10/32\"], ports: [443] }\n"), "{yaml}");
    assert_eq!(yaml.matches("    - {").count(), 1, "{yaml}");
    assert_eq!(notes.len(), 3, "{notes:?}");
}
