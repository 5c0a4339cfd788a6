//! An app that is not ready gets no traffic, whichever way it is asked, and gets it again when it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use isthmus_world::apps::{self, Server};
use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("an_app_whose_port_is_closed_gets_no_traffic_until_it_opens", by_tcp),
    ("an_app_that_does_not_answer_http_gets_no_traffic_until_it_does", by_http),
    ("an_app_that_says_by_grpc_that_it_does_not_serve_gets_no_traffic", by_grpc),
    ("an_app_that_a_command_finds_not_ready_gets_no_traffic", by_command),
];

const PORT: u16 = 9090;
/// Three failures 200 ms apart, and the push.
const SOON: Duration = Duration::from_secs(15);
const OFTEN: &str = "interval: 200ms, timeout: 2s, failures: 2, successes: 2";
/// Two bytes: the field `status` of grpc.health.v1.HealthCheckResponse.
const HEALTH: &str = r#"
import os, sys, grpc
from concurrent import futures
def check(request, context):
    return b"\x08\x01" if os.path.exists(sys.argv[2]) else b"\x08\x02"
server = grpc.server(futures.ThreadPoolExecutor(2))
check = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

fn by_tcp(mesh: &mut Mesh) -> Result<(), String> {
    with_a_server(mesh, &format!("readiness: {{ tcp: {{ port: {PORT} }}, {OFTEN} }}\n"))
}

fn by_http(mesh: &mut Mesh) -> Result<(), String> {
    with_a_server(mesh, &format!("readiness: {{ http: {{ port: {PORT}, path: /ready }}, {OFTEN} }}\n"))
}

fn with_a_server(mesh: &mut Mesh, readiness: &str) -> Result<(), String> {
    let server = start(mesh)?;
    mesh.configure_sidecar("orders", readiness)?;
    let mut server = Some(server);
    turns(mesh, |mesh, ready| {
        server = if ready { Some(start(mesh)?) } else { None };
        let _ = &server;
        Ok(())
    })
}

fn start(mesh: &Mesh) -> Result<Server, String> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    apps::http_server(mesh.world().host("orders"), at).map_err(|e| e.to_string())
}

fn by_grpc(mesh: &mut Mesh) -> Result<(), String> {
    if !apps::python_or_skip(&["grpc"], "gRPC health") {
        return Ok(());
    }
    let file = flag(mesh, true)?;
    let arguments = [PORT.to_string(), file.display().to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _server =
        apps::python_server(mesh.world().host("orders"), PORT, HEALTH, &arguments).map_err(|e| e.to_string())?;
    mesh.configure_sidecar("orders", &format!("readiness: {{ grpc: {{ port: {PORT} }}, {OFTEN} }}\n"))?;
    turns(mesh, |mesh, ready| flag(mesh, ready).map(drop))
}

fn by_command(mesh: &mut Mesh) -> Result<(), String> {
    let file = flag(mesh, true)?;
    let command = format!("[/usr/bin/test, -f, {}]", file.display());
    mesh.configure_sidecar("orders", &format!("readiness: {{ command: {command}, {OFTEN} }}\n"))?;
    turns(mesh, |mesh, ready| flag(mesh, ready).map(drop))
}

/// A file that is there while the app is ready.
fn flag(mesh: &Mesh, ready: bool) -> Result<PathBuf, String> {
    let file = mesh.world().host("orders").files().join("ready");
    let done = if ready { std::fs::write(&file, "") } else { std::fs::remove_file(&file) };
    done.map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}

/// Ready, not ready, ready: the caller finds what is said.
fn turns(mesh: &mut Mesh, mut be: impl FnMut(&Mesh, bool) -> Result<(), String>) -> Result<(), String> {
    mesh.until(SOON, "orders is ready", |mesh| state_of_orders(mesh, "connected"))?;
    mesh.until(SOON, "web reaches orders", |mesh| Ok((mesh.get("web", ORDERS_URL)?.status == 200).then_some(())))?;
    be(mesh, false)?;
    mesh.until(SOON, "orders is not ready", |mesh| state_of_orders(mesh, "unready"))?;
    let reached = mesh.orders_reached()?;
    mesh.until(SOON, "web is told so", |mesh| Ok((mesh.get("web", ORDERS_URL)?.status == 503).then_some(())))?;
    let reached_since = mesh.orders_reached()? - reached;
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 503, || format!("{} {}", answer.status, answer.body))?;
    require(mesh.orders_reached()? == reached + reached_since, || "the app got traffic".to_owned())?;
    be(mesh, true)?;
    mesh.until(SOON, "orders is ready again", |mesh| state_of_orders(mesh, "connected"))?;
    mesh.until(SOON, "web reaches it", |mesh| Ok((mesh.get("web", ORDERS_URL)?.status == 200).then_some(())))
}

fn state_of_orders(mesh: &Mesh, wanted: &str) -> Result<Option<()>, String> {
    let answer = mesh.isthmus_json(&["endpoints", "shop/orders", "--json"])?;
    let states = answer["endpoints"].as_array().cloned().unwrap_or_default();
    Ok(states.iter().any(|endpoint| endpoint["state"] == wanted).then_some(()))
}
