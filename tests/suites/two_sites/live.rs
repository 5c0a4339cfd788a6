//! What is open when policy changes: streams of every kind, through the mesh and out of it. Those that are no longer
//! allowed end within a second, the others are not disturbed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use isthmus_world::apps::{self, Daemon, Server};
use isthmus_world::mesh::Mesh;
use isthmus_world::{Host, Process, monotonic_ns};

use crate::egress::RIGHT;
use crate::transport::{VIP, service};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("streams_that_a_new_policy_refuses_end_within_a_second_and_no_others", through_the_mesh),
    ("streams_that_leave_the_mesh_end_when_a_new_policy_refuses_them", out_of_the_mesh),
];

const DEADLINE: Duration = Duration::from_secs(20);
/// From when the proxies have said that the policy is in force to when the client's own `recv` told it of the end, on one
/// clock: what it then takes us to hear of it is left out.
const AT_ONCE: Duration = Duration::from_secs(1);
const GRPC_SERVER: &str = include_str!("../real_peers/programs/grpc_server.py");
const WEBSOCKET_SERVER: &str = include_str!("../real_peers/programs/websocket_server.py");

/// Says something and waits for the answer, again and again; prints each, and the end.
const CLIENT: &str = r#"
import os, socket, sys, time
kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])

def said():
    number = 0
    while True:
        yield number
        number += 1
        time.sleep(0.05)

def tcp():
    with socket.create_connection((host, port)) as connection:
        for number in said():
            connection.sendall(b"%08d" % number)
            got = b""
            while len(got) < 8:
                more = connection.recv(8 - len(got))
                if not more:
                    return
                got += more
            print("answer", number)

def websocket():
    from websockets.sync.client import connect
    with connect(f"ws://{host}:{port}/", proxy=None, ping_interval=None) as connection:
        for number in said():
            connection.send(str(number))
            assert connection.recv() == str(number)
            print("answer", number)

def grpc():
    import grpc
    channel = grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)])
    call = channel.stream_stream("/peers.Peers/BidiStream")(b"%d" % number for number in said())
    for number, _ in enumerate(call):
        print("answer", number)

def download():
    import http.client
    connection = http.client.HTTPConnection(host, port)
    connection.request("GET", "/")
    response = connection.getresponse()
    for number in said():
        if not response.read(1):
            return
        print("answer", number)

def ended(how):
    print("ended at", time.monotonic_ns(), how)

# It has the time, and is not what is asked about: programs that compile beside it come after it.
try:
    os.nice(-15)
except OSError:
    pass
try:
    globals()[kind]()
    ended("in order")
except Exception as error:
    ended(f"{type(error).__name__} {error}")
"#;

/// One byte now and then, for ever.
const DRIP: &str = r#"
import http.server, sys, time

class Drip(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"1\r\nx\r\n")
                time.sleep(0.05)
        except OSError:
            pass
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Drip).serve_forever()
"#;

pub(crate) fn can_run() -> bool {
    apps::python_or_skip(&["grpc", "websockets.sync.client"], "streams that are open when policy changes")
}

/// Echo over TCP, gRPC, WebSocket, and a download without end.
struct Apps {
    _echo: Server,
    _programs: [Daemon; 3],
}

const KINDS: [(&str, u16); 4] = [("tcp", 7000), ("grpc", 9500), ("websocket", 9600), ("download", 9700)];

impl Apps {
    fn start(host: &Host) -> Result<Apps, String> {
        let program = |port: u16, text: &str| {
            apps::python_server(host, port, text, &[&port.to_string()]).map_err(|e| e.to_string())
        };
        let echo = apps::echo_server(host, (Ipv4Addr::UNSPECIFIED, 7000).into()).map_err(|e| e.to_string())?;
        let programs = [program(9500, GRPC_SERVER)?, program(9600, WEBSOCKET_SERVER)?, program(9700, DRIP)?];
        Ok(Apps { _echo: echo, _programs: programs })
    }
}

/// A client of one kind.
struct Stream {
    what: String,
    process: Process,
}

impl Stream {
    fn open(from: &Host, kind: &str, to: IpAddr, port: u16) -> Result<Stream, String> {
        let what = format!("{kind} of {}", from.name());
        let arguments = [kind, &to.to_string(), &port.to_string()];
        let process = apps::python_process(from, CLIENT, &arguments).map_err(|e| e.to_string())?;
        let stream = Stream { what, process };
        stream.goes_on()?;
        Ok(stream)
    }

    fn answers(&self) -> usize {
        self.process.logs().iter().filter(|line| line.starts_with("answer")).count()
    }

    /// It is answered still.
    fn goes_on(&self) -> Result<(), String> {
        let (before, began) = (self.answers(), Instant::now());
        while self.answers() < before + 2 {
            let in_time = began.elapsed() < DEADLINE && !self.has_ended();
            require(in_time, || format!("{} is not answered: {}", self.what, self.process.last_lines()))?;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.process.logs().iter().any(|line| line.starts_with("ended"))
    }

    /// `since`: when the policy was in force everywhere.
    fn ends(&self, since: u64) -> Result<(), String> {
        let seen = self.process.wait_for_line("its end", DEADLINE, |line| line.starts_with("ended"));
        let line = seen.map_err(|e| format!("{}: {e}", self.what))?;
        let at = line.split(' ').nth(2).and_then(|at| at.parse::<u64>().ok()).ok_or_else(|| line.clone())?;
        let took = Duration::from_nanos(at.saturating_sub(since));
        require(took <= AT_ONCE, || format!("{} ended after {took:?}", self.what))?;
        // Broken off, and not as if all had been said.
        require(!line.contains("in order"), || format!("{} ended in order", self.what))
    }
}

fn policy(accounts: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: levels }}\nspec:\n  \
         services: [levels]\n  transport: Permissive\n  allow:\n    - from: {{ serviceAccounts: [{accounts}] }}\n    - from: {{ \
         cidrs: [10.20.1.99/32] }}\n"
    )
}

fn through_the_mesh(mesh: &mut Mesh) -> Result<(), String> {
    let _apps = Apps::start(mesh.world().host("orders"))?;
    let ports = [(7000, "tcp-echo"), (9500, "grpc"), (9600, "http-socket"), (9700, "http-drip")];
    mesh.apply(&format!("{}{}", service(&ports), policy("web, batch")))?;
    let open = |from: &str, to: Ipv4Addr| {
        let open = |(kind, port)| Stream::open(mesh.world().host(from), kind, to.into(), port);
        KINDS.into_iter().map(open).collect::<Result<Vec<_>, _>>()
    };
    let (web, batch) = (open("web", VIP)?, open("batch", VIP)?);
    let stranger = open("stranger", Ipv4Addr::new(10, 20, 1, 10))?;
    // A change that allows all of them disturbs none.
    mesh.apply(&policy("web, batch, audit"))?;
    [&web, &batch, &stranger].into_iter().flatten().try_for_each(Stream::goes_on)?;

    mesh.apply(&policy("web"))?;
    let in_force = monotonic_ns();
    batch.iter().try_for_each(|stream| stream.ends(in_force))?;
    [&web, &stranger].into_iter().flatten().try_for_each(Stream::goes_on)?;
    // Now what came in plain.
    mesh.apply(&policy("web").replace("Permissive", "MeshOnly"))?;
    let in_force = monotonic_ns();
    stranger.iter().try_for_each(|stream| stream.ends(in_force))?;
    web.iter().try_for_each(Stream::goes_on)
}

fn egress(cidrs: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{ namespace: shop, name: out }}\nspec:\n  \
         allow:\n    - {{ cidrs: [{cidrs}] }}\n"
    )
}

/// Directly, and by a service whose endpoints are outside: the caller's sidecar is the only one there is.
fn out_of_the_mesh(mesh: &mut Mesh) -> Result<(), String> {
    let wrong = Ipv4Addr::new(203, 0, 113, 20);
    let add = |mesh: &mut Mesh, name: &str, ip| {
        mesh.world_mut().add_host(isthmus_world::CLOUD, name, ip).map_err(|e| e.to_string())
    };
    let hosts = [add(mesh, "right", RIGHT)?, add(mesh, "wrong", wrong)?];
    let _apps = hosts.iter().map(Apps::start).collect::<Result<Vec<_>, _>>()?;
    let ports = [(7000, "tcp-echo"), (9500, "grpc"), (9600, "http-socket"), (9700, "http-drip")];
    let written: String = ports.iter().map(|(port, name)| format!("  - {{ name: {name}, port: {port} }}\n")).collect();
    let slice = format!(
        "{}apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: shop\n  name: levels-1\n  labels: {{ \
         kubernetes.io/service-name: levels }}\naddressType: IPv4\nendpoints: [{{ addresses: [{wrong}] }}]\nports:\n{written}---\n",
        service(&ports).replace("  selector: { app: orders }\n", "")
    );
    mesh.apply(&format!("{slice}{}---\n{}", policy("web"), egress("203.0.113.0/24")))?;
    let open = |to: Ipv4Addr| {
        let open = |(kind, port)| Stream::open(mesh.world().host("web"), kind, to.into(), port);
        KINDS.into_iter().map(open).collect::<Result<Vec<_>, _>>()
    };
    let (right, straight, service) = (open(RIGHT)?, open(wrong)?, open(VIP)?);
    mesh.apply(&egress("203.0.113.0/25"))?;
    [&right, &straight, &service].into_iter().flatten().try_for_each(Stream::goes_on)?;

    mesh.apply(&egress("203.0.113.10/32"))?;
    let in_force = monotonic_ns();
    straight.iter().chain(&service).try_for_each(|stream| stream.ends(in_force))?;
    right.iter().try_for_each(Stream::goes_on)?;

    // The service's own transport, which nobody but the sender keeps there.
    mesh.apply(&egress("203.0.113.0/24"))?;
    let service = open(VIP)?;
    mesh.apply(&policy("web").replace("Permissive", "HttpsOnly"))?;
    let in_force = monotonic_ns();
    service.iter().try_for_each(|stream| stream.ends(in_force))?;
    right.iter().try_for_each(Stream::goes_on)
}
