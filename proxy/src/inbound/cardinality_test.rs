//! A hundred thousand callers, each with a path of its own, through all that is told of a request: counts by edge and by flow,
//! refusals, spans that are kept, exemplars. Everything but the TLS handshakes of so many.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use http::Request;
use isthmus_certs::{Clock, PeerIdentity, SpiffeId, SystemClock, TrustDomain};

use super::live::Watched;
use super::mesh::Peer;
use super::request;
use super::world_test::{OWN, Spec, World, app, id, mirror, world};
use crate::flows::Verdict;
use crate::http::{Asked, Body, Caller};
use crate::state::policy::Arrived;
use crate::telemetry::Keep;
use crate::tls::{MeshProtocol, Stamped};

const EACH: usize = 100_000;
/// So many of them are let in, by a caller that policy knows: the app answers those.
const ALLOWED: usize = EACH / 50;
const NAME: &str = "inbound::cardinality_test::a_hundred_thousand_peers_and_paths_cost_what_some_hundreds_do";
const ALONE: &str = "ISTHMUS_TEST_ALONE";

/// A peer as its handshake leaves it.
fn peer(world: &World, who: SpiffeId) -> Peer {
    let known = world.web.current().unwrap();
    let (serial, not_before, not_after) = (known.serial, known.not_before, known.not_after);
    Peer {
        identity: PeerIdentity { id: who, serial, not_before, not_after },
        source: ([127, 0, 0, 1], 40_000).into(),
        local: (OWN, world.mesh.port()).into(),
        last_read: Stamped::new(()).last_read(),
        in_common: None,
        protocol: MeshProtocol::Isthmus,
        forwarded: None,
        pins: RefCell::default(),
    }
}

/// Letters only: what looks like an id would be one template at once.
fn letters(mut number: usize) -> String {
    let mut text = String::from("p");
    while number > 0 {
        text.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    text
}

async fn ask(world: &World, number: usize, domain: &TrustDomain) {
    let who = match number.is_multiple_of(EACH / ALLOWED) {
        true => id("web"),
        false => SpiffeId::workload(domain, &format!("n{}", number % 97), &format!("s{number}")).unwrap(),
    };
    let request = Request::get(format!("http://orders.shop/{}/{}", letters(number % 313), letters(number)))
        .header("isthmus-port", world.spec.app_port)
        .body(Body::Empty)
        .unwrap();
    let asked = Asked { request, raw: None, upgrade: None, caller: Caller::Http1(None) };
    let (peer, watched) = (peer(world, who), Watched::default());
    let answer = request::from_mesh(&world.inbound, &peer, Instant::now(), &watched, asked).await;
    let expected = if number.is_multiple_of(EACH / ALLOWED) { 200 } else { 403 };
    assert_eq!(answer.response.status(), expected);
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Memory is the process's: this runs in one of its own.
#[test]
fn a_hundred_thousand_peers_and_paths_cost_what_some_hundreds_do() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return tokio::task::LocalSet::new().block_on(&runtime, all());
    }
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).args(["--exact", NAME, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains(" 1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn all() {
    let (port, _) = app(mirror).await;
    let keep = Keep { errors: true, denied: true, slower_than: None };
    let spec = Spec { allow: Some(vec!["web"]), traced: Some((0.01, keep)), ..Spec::http(port) };
    let world = Rc::new(world(spec).await);
    let domain = TrustDomain::parse("shop.example").unwrap();
    let (mut flows, mut keys, mut others, mut half) = (0, 0, 0, 0);
    for number in 0..EACH {
        ask(&world, number, &domain).await;
        if number % 10_000 != 9_999 {
            continue;
        }
        // As every five seconds: the worker hands over, the control runtime merges, the control plane takes.
        world.inbound.flows().ship();
        let mut collector = world.collector.borrow_mut();
        collector.merge(SystemClock.now_ms());
        let taken = collector.take(usize::MAX);
        keys = keys.max(taken.flows.len());
        flows += taken.dropped + taken.flows.iter().map(|(_, counted)| counted.count).sum::<u64>();
        for (key, counted) in &taken.flows {
            assert_eq!((key.port, key.arrived), (port, Arrived::Mesh));
            assert!(matches!(key.verdict, Verdict::Allowed | Verdict::Refused));
            others += if key.path.as_deref() == Some("other") { counted.count } else { 0 };
        }
        others += taken.dropped;
        if number < EACH / 2 {
            half = resident();
        }
    }
    let grown = resident().saturating_sub(half);
    println!("{keys} flows at once, {others} of {flows} told with less detail, {grown} bytes more in the second half");
    // What half of them cost is all that it costs: no table, ring or queue goes on growing.
    assert!(grown < 4 << 20, "{grown} bytes for the second 50,000");
    assert_eq!(flows, EACH as u64, "every decision is counted, in full or as other");
    assert!(keys <= 4_096 + 512 && others > 0, "{keys} {others}");
    edges_are_bounded(&world);
}

fn edges_are_bounded(world: &World) {
    let page = world.orders.metrics.render();
    let of = |family: &str| -> Vec<(String, u64)> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(family)?.rsplit_once(' '));
        lines.map(|(labels, count)| (labels.to_owned(), count.parse().unwrap())).collect()
    };
    let callers = of("isthmus_caller_requests_total{");
    assert!((513..=514).contains(&callers.len()), "512, of which one by two results, and other: {}", callers.len());
    assert_eq!(callers.iter().map(|(_, count)| count).sum::<u64>(), EACH as u64);
    let other = callers.iter().find(|(labels, _)| labels.starts_with("caller=\"other\"")).unwrap();
    assert_eq!(other.1, (EACH - ALLOWED - 511) as u64, "all but the 511 strangers that came first, and web");
    let web = callers.iter().find(|(labels, _)| labels.contains("sa/web\"")).unwrap();
    assert_eq!(web.1, ALLOWED as u64, "who was there first keeps its series");
    assert_eq!(of("isthmus_edges_beyond_total"), [(String::new(), 1)]);
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    assert!(callers.iter().all(|(labels, _)| !labels.contains("/p")), "no path is a label");
    // What `isthmus edges` and `isthmus top` are told.
    let edges = world.orders.metrics.edges_now();
    let told = edges.iter().find(|edge| edge.name == "other").unwrap();
    assert_eq!((edges.len(), told.requests.iter().sum::<u64>()), (513, other.1));
    // Nobody took the spans of those that were denied: what did not fit was dropped and counted.
    let dropped = of("isthmus_spans_dropped_total{reason=\"queue-full\"}");
    let kept: usize =
        world.spans.borrow_mut().iter_mut().map(|queue| std::iter::from_fn(|| queue.take()).count()).sum();
    assert!(kept <= 8_192 && dropped[0].1 + kept as u64 >= (EACH - ALLOWED) as u64, "{kept} {dropped:?}");
}
