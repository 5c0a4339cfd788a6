use super::super::metrics::Metrics;
use super::*;

fn caller(name: &str) -> EdgeOf<'_> {
    EdgeOf { direction: Direction::Inbound, namespace: "", name, port: 8080, site: "" }
}

#[test]
fn workers_count_apart_and_are_added_up() {
    let metrics = Metrics::new(2);
    let orders = EdgeOf { direction: Direction::Outbound, namespace: "shop", name: "orders", port: 80, site: "dc1" };
    for worker in 0..2 {
        let edges = metrics.for_worker(worker).edges();
        edges.request(orders, 200, Duration::from_micros(300), None);
        edges.request(EdgeOf { site: "azure", ..orders }, 503, Duration::from_micros(300), None);
        edges.connection(caller("spiffe://a/ns/shop/sa/web"), 10, 20);
    }
    let text = metrics.render();
    for line in [
        r#"isthmus_service_requests_total{service="shop/orders",port="80",site="dc1",status="2xx"} 2"#,
        r#"isthmus_service_requests_total{service="shop/orders",port="80",site="azure",status="5xx"} 2"#,
        r#"isthmus_service_request_duration_seconds_bucket{service="shop/orders",port="80",site="dc1",le="0.0005"} 2"#,
        r#"isthmus_service_request_duration_seconds_count{service="shop/orders",port="80",site="dc1"} 2"#,
        r#"isthmus_caller_connections_total{caller="spiffe://a/ns/shop/sa/web",port="8080"} 2"#,
        r#"isthmus_caller_bytes_total{caller="spiffe://a/ns/shop/sa/web",port="8080",flow="from-callee"} 40"#,
        "isthmus_edges_beyond_total 0",
    ] {
        assert!(text.lines().any(|have| have == line), "missing: {line}\n{text}");
    }
}

/// A hundred thousand callers: the page ends, nothing is lost from the sum, and who was there first keeps its series.
#[test]
fn a_hundred_thousand_peers_make_a_page_of_bounded_size() {
    const PEERS: u64 = 100_000;
    let metrics = Metrics::new(2);
    let workers = [metrics.for_worker(0).edges(), metrics.for_worker(1).edges()];
    for peer in 0..PEERS {
        let name = format!("spiffe://a/ns/n{}/sa/s{peer}", peer % 100);
        workers[(peer % 2) as usize].request(caller(&name), 200, Duration::from_millis(1), None);
    }
    workers[0].request(caller("spiffe://a/ns/n0/sa/s0"), 200, Duration::from_millis(1), None);
    let text = metrics.render();
    let counts: Vec<(&str, u64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("isthmus_caller_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(labels, count)| (labels, count.parse().unwrap()))
        .collect();
    assert_eq!(counts.len(), MOST_EDGES + 1, "and other");
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), PEERS + 1);
    assert!(counts.contains(&(r#"caller="spiffe://a/ns/n0/sa/s0",port="8080",status="2xx"}"#, 2)), "{:?}", counts[0]);
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
    assert!(text.contains("\nisthmus_edges_beyond_total 2\n"), "once a worker");
}
