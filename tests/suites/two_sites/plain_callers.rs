//! Callers that have no sidecar and cannot get one: the platform's probes, and browsers that begin in plain. What is
//! served to them opens nothing to anybody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::{self, Fetched, Nginx, SelfSigned};
use isthmus_world::mesh::{Mesh, resources};

use crate::transport::{policy, service};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("probes_of_the_platform_are_served_and_open_nothing_else", probes),
    ("plain_requests_get_403_and_308_only_where_asked_for", redirected),
];

const ORDERS: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 10);
const DEADLINE: Duration = Duration::from_secs(20);
const GRPC_SERVER: &str = include_str!("../real_peers/programs/grpc_server.py");
const ASK_GRPC: &str = "import sys, grpc\n\
channel = grpc.insecure_channel(sys.argv[1], options=[('grpc.enable_http_proxy', 0)])\n\
try:\n  channel.unary_unary(sys.argv[2])(b'', timeout=10)\nexcept grpc.RpcError as error:\n  print(error.code().name)\n";

fn curl(mesh: &Mesh, from: &str, arguments: &[&str]) -> Result<Fetched, String> {
    apps::curl(mesh.world().host(from), arguments, DEADLINE).map_err(|e| e.to_string())
}

fn nginx(mesh: &Mesh) -> Result<[Nginx; 2], String> {
    let certificate = SelfSigned::new(&["levels"]).map_err(|e| e.to_string())?;
    let host = mesh.world().host("orders");
    let start = |http, https, status| Nginx::start(host, http, https, status, &certificate).map_err(|e| e.to_string());
    Ok([start(9080, 9443, 9098)?, start(9081, 9444, 9099)?])
}

/// The host without a sidecar plays the platform, and the control plane's host, which has none either, everybody else.
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn probes(mesh: &mut Mesh) -> Result<(), String> {
    let [declared, undeclared] = nginx(mesh)?;
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let echo = apps::echo_server(mesh.world().host("orders"), any(7000)).map_err(|e| e.to_string())?;
    let grpc = apps::python_server(mesh.world().host("orders"), 9500, GRPC_SERVER, &["9500"]);
    let _grpc = grpc.map_err(|e| e.to_string())?;
    let ports = [(9080, "http"), (9500, "grpc"), (7000, "raw"), (7001, "gone")];
    let asked = format!(
        "{}  probes:\n    - {{ port: 9080, path: /healthz }}\n    - {{ port: 9081, path: /live }}\n    - {{ port: 9500, grpc: true \
         }}\n    - {{ port: 7000, connect: true }}\n    - {{ port: 7001, connect: true }}\n",
        policy("MeshOnly", "1.2").replace("    - from: { cidrs: [10.20.1.99/32] }\n", "")
    );
    mesh.apply(&format!("{}{asked}", service(&ports)))?;
    let of = |port: u16, path: &str| format!("http://{ORDERS}:{port}{path}");
    let reached = || Ok::<_, String>(declared.counters().and_then(|d| undeclared.counters().map(|u| d[1] + u[1])));
    let refused = |from: &str, arguments: &[&str]| {
        let (before, got) = (reached()?.map_err(|e| e.to_string())?, curl(mesh, from, arguments)?);
        let word = got.header("isthmus-denied");
        require(got.status == 403 && word == "plaintext", || format!("{from}: {arguments:?}: {got:?}"))?;
        require(reached()?.map_err(|e| e.to_string())? == before, || format!("{from}: {arguments:?} reached the app"))
    };
    // Nobody has said yet that this host is the platform: a service alone opens nothing.
    refused("stranger", &[&of(9080, "/healthz")])?;
    let connect = |from: &str, port: u16, bytes: &[u8]| {
        raw::exchange(mesh.world().host(from), SocketAddr::from((ORDERS, port)), bytes, Then::HalfClose, DEADLINE)
    };
    require(connect("stranger", 7000, b"").end == End::Reset && echo.accepted() == 0, || "a connection".to_owned())?;

    let platform = resources::mesh(&mesh.collector_url(), "24h")
        .replace("  enforcement: Enforce\n", "  enforcement: Enforce\n  probes: { from: [10.20.1.99/32] }\n");
    require(platform.contains("probes:"), || "the example's mesh has changed".to_owned())?;
    mesh.apply(&platform)?;
    for arguments in
        [vec![of(9080, "/healthz")], vec!["--head".to_owned(), of(9080, "/healthz")], vec![of(9081, "/live")]]
    {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let got = curl(mesh, "stranger", &arguments)?;
        require(got.status == 200, || format!("{arguments:?}: {got:?}"))?;
    }
    let exact = of(9080, "/healthz");
    let upgrade = ["-H", "connection: upgrade", "-H", "upgrade: websocket", "-H", "sec-websocket-version: 13"];
    let others: [Vec<&str>; 6] = [
        vec!["--data", "x", &exact],
        [&upgrade[..], &[&exact]].concat(),
        vec!["-X", "DELETE", &exact],
        vec!["--path-as-is", "http://10.20.1.10:9080/healthz/../admin"],
        vec!["--path-as-is", "http://10.20.1.10:9080/%68ealthz"],
        vec!["http://10.20.1.10:9080/healthz?verbose"],
    ];
    for arguments in &others {
        refused("stranger", arguments)?;
    }
    for path in [of(9080, "/"), of(9080, "/live"), of(9081, "/healthz"), of(9081, "/")] {
        refused("stranger", &[&path])?;
    }
    // Not from anywhere else, whatever a header says.
    refused("control", &[&exact])?;
    refused("control", &["-H", "x-forwarded-for: 10.20.1.99", &exact])?;

    let grpc = |from: &str, method: &str| {
        let done =
            apps::python_client(mesh.world().host(from), ASK_GRPC, &[&format!("{ORDERS}:9500"), method], DEADLINE);
        done.map(|done| done.stdout.trim().to_owned()).map_err(|e| e.to_string())
    };
    // The app has no such service, and says so itself.
    let health = "/grpc.health.v1.Health/Check";
    require(grpc("stranger", health)? == "UNIMPLEMENTED", || "the gRPC probe is refused".to_owned())?;
    for (from, method) in
        [("stranger", "/grpc.health.v1.Health/Watch"), ("stranger", "/peers.Peers/Echo"), ("control", health)]
    {
        let said = grpc(from, method)?;
        require(said == "PERMISSION_DENIED", || format!("{from}: {method}: {said}"))?;
    }

    // A connection: the app is connected to, and nothing is carried.
    let got = connect("stranger", 7000, b"");
    require(got.end == End::Closed, || format!("{got:?}"))?;
    mesh.until(DEADLINE, "the app is connected to", |_| Ok((echo.accepted() == 1).then_some(())))?;
    let got = connect("stranger", 7001, b"");
    require(got.end == End::Reset, || format!("nobody listens, and the probe got {got:?}"))?;
    let before = echo.requests();
    let got = connect("stranger", 7000, b"DROP TABLE\n");
    require(got.end == End::Reset && got.bytes.is_empty() && echo.requests() == before, || format!("bytes: {got:?}"))?;
    let got = connect("control", 7000, b"");
    require(got.end == End::Reset && echo.accepted() == 1, || format!("from elsewhere: {got:?}"))
}

fn redirected(mesh: &mut Mesh) -> Result<(), String> {
    let _nginx = nginx(mesh)?;
    mesh.apply(&format!("{}{}", service(&[(9080, "http")]), policy("HttpsOnly", "1.2")))?;
    let url = "http://10.20.1.10:9080/a/b?c=d";
    let got = curl(mesh, "stranger", &[url])?;
    require(got.status == 403 && got.header("location").is_empty(), || format!("not asked for: {got:?}"))?;

    mesh.apply(&format!("{}  httpsRedirect: {{ host: orders.example, port: 8443 }}\n", policy("HttpsOnly", "1.2")))?;
    // Never to where the request says that it is.
    for arguments in [&[url][..], &["--head", url], &["-H", "host: evil.example", url]] {
        let got = curl(mesh, "stranger", arguments)?;
        require(got.status == 308, || format!("{arguments:?}: {got:?}"))?;
        require(got.header("location") == "https://orders.example:8443/a/b?c=d", || format!("{got:?}"))?;
        require(got.header("isthmus-denied") == "plaintext", || format!("{got:?}"))?;
    }
    for arguments in [&["--data", "x", url][..], &["-X", "PUT", url], &["-X", "OPTIONS", url]] {
        let got = curl(mesh, "stranger", arguments)?;
        require(got.status == 403 && got.header("location").is_empty(), || format!("{arguments:?}: {got:?}"))?;
    }
    // Who is refused for another reason is not sent anywhere.
    let got = curl(mesh, "batch", &["http://10.96.0.50:9080/"])?;
    require(got.status == 403 && got.header("isthmus-denied") == "not-allowed", || format!("{got:?}"))?;
    require(got.header("location").is_empty(), || format!("{got:?}"))
}
