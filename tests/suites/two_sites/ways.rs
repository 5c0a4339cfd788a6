//! Ways between the sites that lose what is large, and a pod's end: seen by apps that go on as if nothing were.

use std::time::{Duration, Instant};

use isthmus_world::apps::{self, Load, Request};
use isthmus_world::mesh::{Mesh, ORDERS_URL, resources};
use isthmus_world::{Command, find};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_way_that_drops_large_hellos_costs_a_second_and_is_reported", large_hello),
    ("a_way_that_becomes_too_narrow_without_a_word_is_left_within_seconds", black_hole),
    ("a_pods_end_under_load_loses_no_request", pods_end),
];

const DEADLINE: Duration = Duration::from_secs(20);
/// Longer than any segment that may pass, in IPv4 with its headers: what a tunnel on the way has room for, less a little.
const TOO_LONG: &str = "meta length > 1300 drop";

pub(crate) fn can_run() -> bool {
    find::or_skip(&["nft"], "ways that drop large packets").is_some()
}

/// From now on the data centre's router drops long packets of mesh connections, and sends nobody a "too big".
fn narrow(mesh: &Mesh) -> Result<(), String> {
    let router = mesh.world().sites().last().ok_or("no site")?.router();
    let rules = format!(
        "add table inet narrow; add chain inet narrow way {{ type filter hook forward priority 0; }}; \
         add rule inet narrow way tcp dport 15008 {TOO_LONG}; add rule inet narrow way tcp sport 15008 {TOO_LONG}"
    );
    let done = router.output(Command::new("nft").arg(rules), DEADLINE).map_err(|e| e.to_string())?;
    require(done.status.success(), || format!("nft: {}", done.stderr))
}

fn hellos_dropped(mesh: &Mesh) -> Result<f64, String> {
    mesh.metric("web", "isthmus_mesh_handshakes_failed_total", &[("side", "client"), ("reason", "hello_dropped")])
}

/// A head of so many bytes is several long packets on the way, and the app sends it back.
fn large(mesh: &Mesh) -> Result<isthmus_world::mesh::Answer, String> {
    mesh.get_with("web", ORDERS_URL, &[("x-large", &"x".repeat(20_000))])
}

/// The first mesh connection of all meets the narrow way.
fn large_hello(mesh: &mut Mesh) -> Result<(), String> {
    narrow(mesh)?;
    let began = Instant::now();
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("{answer:?}"))?;
    require(began.elapsed() < Duration::from_secs(5), || format!("it took {:?}", began.elapsed()))?;
    require(hellos_dropped(mesh)? >= 1.0, || "no hello_dropped is counted".to_owned())?;
    let said = mesh.sidecar("web").log().iter().any(|line| line.contains("hello_dropped") && line.contains("MTU"));
    require(said, || format!("the log does not say it: {:?}", mesh.sidecar("web").log()))?;
    // And what is large fits through from then on, both ways.
    let answer = large(mesh)?;
    let came_back = answer.body.contains(&"x".repeat(20_000));
    require(answer.status == 200 && came_back, || format!("{} {}", answer.status, answer.body.len()))
}

/// A connection that carried long segments meets the narrow way later, as when a path fails over to a tunnel.
fn black_hole(mesh: &mut Mesh) -> Result<(), String> {
    let answer = large(mesh)?;
    require(answer.status == 200, || format!("before: {answer:?}"))?;
    require(hellos_dropped(mesh)? == 0.0, || "a hello was dropped on a way of 1,500 bytes".to_owned())?;
    narrow(mesh)?;
    let began = Instant::now();
    mesh.until(Duration::from_secs(30), "large requests pass again", |mesh| {
        Ok(large(mesh).is_ok_and(|answer| answer.status == 200).then_some(()))
    })?;
    println!("large requests passed again after {:.1} s", began.elapsed().as_secs_f64());
    require(hellos_dropped(mesh)? >= 1.0, || "no hello_dropped is counted".to_owned())
}

/// The service of two workloads, one of which ends in order (SIGTERM, as Kubernetes does it) and comes back.
fn pods_end(mesh: &mut Mesh) -> Result<(), String> {
    const URL: &str = "http://10.96.0.60:8300/";
    let serve = |host: &str| {
        apps::http_server(mesh.world().host(host), mesh.world().host(host).socket(8300)).map_err(|e| e.to_string())
    };
    let (first, second) = (serve("batch")?, serve("orders")?);
    let workloads = ["batch", "orders"].iter().fold(resources::WORKLOADS.to_owned(), |all, name| {
        all.replace(&format!("labels: {{ app: {name} }}"), &format!("labels: {{ app: {name}, tier: both }}"))
    });
    mesh.apply(&format!("{workloads}\n---\n{BOTH}"))?;
    let load = Load::new(Request::get(URL), 200).connections(8).start(mesh.world().host("web"));
    // The caller's own site comes first, the other one takes over meanwhile.
    let ended = (0..3).try_for_each(|_| {
        let before = (first.requests(), second.requests());
        mesh.until(DEADLINE, "the first serves", |_| Ok((first.requests() > before.0 + 50).then_some(())))?;
        mesh.restart_sidecar("batch")?;
        mesh.until(DEADLINE, "the second has served", |_| Ok((second.requests() > before.1).then_some(())))
    });
    let report = load.stop();
    ended?;
    require(report.failed == 0 && report.ok > 150, || {
        let said = ["web", "batch", "orders"].map(|host| (host, mesh.sidecar(host).log()));
        format!("{} failed, {} did not: {:?}\n{said:#?}", report.failed, report.ok, report.first_error)
    })
}

const BOTH: &str = "apiVersion: v1
kind: Service
metadata:
  namespace: shop
  name: both
spec:
  clusterIPs: [10.96.0.60]
  selector: { tier: both }
  ports:
    - { name: http, port: 8300, targetPort: 8300, appProtocol: http }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata:
  namespace: shop
  name: both
spec:
  services: [both]
  transport: MeshOnly
  allow:
    - from:
        serviceAccounts: [web]
";
