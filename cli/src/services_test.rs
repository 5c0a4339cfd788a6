use super::*;

fn endpoint(ip: &str, health: Vec<wire::PortHealth>) -> wire::EndpointView {
    let (state, ports) = ("no-sidecar".to_owned(), vec!["80→8080".to_owned()]);
    wire::EndpointView { ip: ip.to_owned(), state, ports, health, ..Default::default() }
}

fn down(workload: &str, reason: &str) -> wire::DownBy {
    wire::DownBy { workload: workload.to_owned(), since_unix_ms: 1_800_000_000_000, reason: reason.to_owned() }
}

fn health(up: u32, down: u32, down_by: Vec<wire::DownBy>) -> Vec<wire::PortHealth> {
    vec![wire::PortHealth { port: 8080, up, down, since_unix_ms: 1_800_000_000_000, down_by }]
}

#[test]
fn who_finds_an_endpoint_down_since_when_and_why() {
    let all = [
        endpoint("10.9.0.1", health(3, 0, vec![])),
        endpoint("10.9.0.2", health(1, 4, vec![down("shop/web", "connection refused"), down("shop/jobs", "")])),
        // Those who say so are another tenant's.
        endpoint("10.9.0.3", health(0, 1, vec![])),
        endpoint("10.9.0.4", vec![]),
    ];
    let text = endpoints_table(&all.iter().collect::<Vec<_>>());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "ADDRESS   SITE  WORKLOAD  STATE       PORTS    HEALTH",
            "10.9.0.1  -     -         no-sidecar  80→8080  8080 up for 3 proxies since 2027-01-15T08:00:00Z",
            "10.9.0.2  -     -         no-sidecar  80→8080  8080 down for 4 of 5 proxies since 2027-01-15T08:00:00Z: \
             shop/web (connection refused), shop/jobs (-) and 2 more",
            "10.9.0.3  -     -         no-sidecar  80→8080  8080 down for 1 of 1 proxy since 2027-01-15T08:00:00Z",
            "10.9.0.4  -     -         no-sidecar  80→8080  -",
        ]
    );
    assert_eq!(endpoint_json(&all[1])["health"][0]["downBy"][0]["reason"], "connection refused");
    let none = endpoints_table(&[&endpoint("10.9.0.4", vec![])]);
    assert!(!none.contains("HEALTH"), "{none}");
}
