//! What a host without a sidecar gets from each transport level, in every language that such hosts speak; each refusal
//! with the level that lets the same bytes pass. And what a sidecar keeps back of its own app.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_world::apps::raw::{self, Then};
use isthmus_world::apps::{self, Daemon, Nginx, Postgres, PostgresSettings, SelfSigned, Server};
use isthmus_world::mesh::Mesh;
use isthmus_world::{Command, Host, find};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("transport_levels_decide_by_what_the_bytes_prove", levels),
    ("transport_of_a_service_is_kept_by_the_senders_own_sidecar", sender),
];

pub(crate) const NAME: &str = "levels.shop.svc.cluster.local";
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);
const ORDERS: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 10);
const DEADLINE: Duration = Duration::from_secs(20);
const PROGRAMS: &[&str] = &["curl", "nginx", "openssl", "redis-server", "redis-cli", "initdb", "postgres", "psql"];

/// The app's ports, their names, which say what they are declared as.
const PORTS: &[(u16, &str)] = &[
    (9080, "http"),
    (9443, "https"),
    (9444, "undeclared"),
    (9500, "grpc"),
    (6379, "tcp-redis"),
    (6381, "cache"),
    (6382, "tls"),
    (5442, "postgres"),
    (5443, "postgres-plain"),
    (2222, "ssh"),
    (2525, "smtp"),
    (1433, "sql"),
    (7000, "raw"),
];

pub(crate) fn can_run() -> bool {
    find::or_skip(PROGRAMS, "transport levels").is_some()
        && apps::python_or_skip(&["grpc"], "transport levels over gRPC")
}

/// The programs on `orders`.
struct Levels<'a> {
    mesh: &'a Mesh,
    http: Nginx,
    undeclared: Nginx,
    /// ssh, smtp, sql, raw.
    servers: [Server; 4],
    _redis: [Daemon; 3],
    _grpc: Daemon,
    _postgres: [Postgres; 2],
}

/// The service and, at one level, its policy.
pub(crate) fn policy(transport: &str, min_tls: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: levels }}\nspec:\n  \
         services: [levels]\n  transport: {transport}\n  minTlsVersion: \"{min_tls}\"\n  allow:\n    - from: {{ serviceAccounts: \
         [web] }}\n    - from: {{ cidrs: [10.20.1.99/32] }}\n"
    )
}

pub(crate) fn service(ports: &[(u16, &str)]) -> String {
    let ports: String = ports.iter().map(|(port, name)| format!("    - {{ name: {name}, port: {port} }}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: levels }}\nspec:\n  clusterIP: {VIP}\n  selector: \
         {{ app: orders }}\n  ports:\n{ports}---\n"
    )
}

const GRPC_SERVER: &str = include_str!("../real_peers/programs/grpc_server.py");
const GRPC_CLIENT: &str = include_str!("../real_peers/programs/grpc_client.py");

impl Levels<'_> {
    fn start(mesh: &Mesh) -> Result<Levels<'_>, String> {
        mesh.apply(&format!("{}{}", service(PORTS), policy("Permissive", "1.2")))?;
        Levels::try_start(mesh).map_err(|e| e.to_string())
    }

    fn try_start(mesh: &Mesh) -> Result<Levels<'_>, isthmus_world::Error> {
        let host = mesh.world().host("orders");
        let certificate = SelfSigned::new(&[NAME])?;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let with_tls = PostgresSettings { certificate: Some(&certificate), ..Default::default() };
        Ok(Levels {
            mesh,
            http: Nginx::start(host, 9080, 9443, 9098, &certificate)?,
            undeclared: Nginx::start(host, 9081, 9444, 9099, &certificate)?,
            servers: [
                apps::greeter(host, any(2222), "SSH-2.0-levels\r\n")?,
                apps::greeter(host, any(2525), "220 levels ESMTP\r\n")?,
                apps::echo_server(host, any(1433))?,
                apps::echo_server(host, any(7000))?,
            ],
            _redis: [Daemon::redis(host, 6379)?, Daemon::redis(host, 6381)?, Daemon::redis(host, 6382)?],
            _grpc: apps::python_server(host, 9500, GRPC_SERVER, &["9500"])?,
            _postgres: [Postgres::start_with(host, 5442, &with_tls)?, Postgres::start(host, 5443)?],
        })
    }

    /// Connections and requests that came to those who count.
    fn reached(&self) -> Result<u64, String> {
        let mut reached = self.servers.iter().map(|server| server.accepted() + server.requests()).sum();
        for nginx in [&self.http, &self.undeclared] {
            reached += nginx.counters().map_err(|e| e.to_string())?.iter().sum::<u64>();
        }
        Ok(reached)
    }

    fn refusals(&self, word: &str) -> Result<f64, String> {
        self.mesh.metric("orders", "isthmus_refused_total", &[("reason", word), ("direction", "inbound")])
    }

    fn host(&self, name: &str) -> &Host {
        self.mesh.world().host(name)
    }

    fn output(&self, from: &str, command: Command) -> Result<(bool, String), String> {
        let done = self.host(from).output(command, DEADLINE).map_err(|e| e.to_string())?;
        Ok((done.status.success(), format!("{}{}", done.stdout, done.stderr)))
    }

    fn raw(&self, from: &str, port: u16, bytes: &[u8]) -> raw::Answer {
        let to = if from == "stranger" { ORDERS } else { VIP };
        raw::exchange(self.host(from), SocketAddr::from((to, port)), bytes, Then::HalfClose, DEADLINE)
    }
}

/// Who asks, and whether it got what it asked for.
type Ask = fn(&Levels<'_>, &str) -> Result<bool, String>;

/// Something that is said, and what MeshOnly, HttpsOnly and Permissive make of it: a word, or nothing where it passes.
struct Row(&'static str, Ask, [&'static str; 3]);

const PLAIN: [&str; 3] = ["plaintext", "plaintext", ""];
const ROWS: &[Row] = &[
    Row("HTTP by curl", curl, PLAIN),
    Row("gRPC by grpcio", grpc, PLAIN),
    Row("redis-cli", redis_ping, PLAIN),
    Row("raw bytes", |l, from| Ok(l.raw(from, 7000, b"\x00\x01raw").bytes == b"\x00\x01raw"), PLAIN),
    Row("an SSH client that waits", |l, from| Ok(l.raw(from, 2222, b"").text().starts_with("SSH-2.0-levels")), PLAIN),
    Row("STARTTLS", |l, from| Ok(l.raw(from, 2525, b"EHLO me\r\nSTARTTLS\r\n").text().contains("STARTTLS")), PLAIN),
    Row("TLS inside TDS", |l, from| Ok(l.raw(from, 1433, &tds()).bytes == tds()), PLAIN),
    Row("psql without TLS", |l, from| psql(l, from, 5442, "disable", "f|none"), PLAIN),
    Row(
        "psql, and a server that has no TLS",
        |l, from| psql(l, from, 5443, "prefer", "f|none"),
        ["mesh-only", "plaintext", ""],
    ),
    Row("psql with TLS", |l, from| psql(l, from, 5442, "require", "t|TLSv1.3"), ["mesh-only", "", ""]),
    Row("TLS where it is declared", |l, from| tls(l, from, 9443), ["mesh-only", "", ""]),
    Row("TLS where it is not", |l, from| tls(l, from, 9444), ["mesh-only", "tls-not-declared", ""]),
    // A ClientHello proves nothing: what comes after it would be commands.
    Row("commands after a ClientHello, declared opaque", |l, from| redis_inline(l, from, 6379), PLAIN),
    Row(
        "commands after a ClientHello, not declared",
        |l, from| redis_inline(l, from, 6381),
        ["mesh-only", "tls-not-declared", ""],
    ),
    // Redis gets the ClientHello, and has no answer to it.
    Row(
        "commands after a ClientHello, declared TLS",
        |l, from| redis_inline(l, from, 6382),
        ["mesh-only", "timeout", ""],
    ),
];

fn curl(levels: &Levels<'_>, from: &str) -> Result<bool, String> {
    let to = if from == "stranger" { ORDERS } else { VIP };
    let got = apps::curl(levels.host(from), &[format!("http://{to}:9080/")], DEADLINE).map_err(|e| e.to_string())?;
    // One word and an id, and no more than that.
    let denied = got.status == 403 && got.body.trim() == got.header("isthmus-denied");
    require(got.status == 200 || denied && !got.header("isthmus-decision").is_empty(), || format!("{got:?}"))?;
    Ok(got.status == 200)
}

fn grpc(levels: &Levels<'_>, from: &str) -> Result<bool, String> {
    let target = if from == "stranger" { format!("{ORDERS}:9500") } else { format!("{VIP}:9500") };
    let done = apps::python_client(levels.host(from), GRPC_CLIENT, &[&target, "unary"], DEADLINE);
    let done = done.map_err(|e| e.to_string())?;
    let refused = done.stderr.contains("PERMISSION_DENIED") && done.stderr.contains("plaintext");
    require(done.status.success() || refused, || done.stderr.clone())?;
    Ok(done.status.success())
}

fn redis_ping(levels: &Levels<'_>, from: &str) -> Result<bool, String> {
    let to = if from == "stranger" { ORDERS } else { VIP }.to_string();
    let said = levels.output(from, Command::new("redis-cli").args(["-h", &to, "-p", "6379", "ping"]))?;
    Ok(said.1.trim() == "PONG")
}

/// Whether what comes after a ClientHello came to Redis, which counts the bytes that it reads.
fn redis_inline(levels: &Levels<'_>, from: &str, port: u16) -> Result<bool, String> {
    let count = || {
        let command = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port.to_string(), "info", "stats"]);
        let said = levels.output("orders", command)?.1;
        let counted = said.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:")?.trim().parse().ok());
        counted.ok_or(said)
    };
    let (first, second): (u64, u64) = (count()?, count()?);
    let (hello, commands) = (client_hello(), b"\r\nSET smuggled yes\r\n");
    levels.raw(from, port, &[&hello[..], commands].concat());
    // Less what the question itself takes.
    let came = usize::try_from(count()? - second - (second - first)).expect("a few bytes");
    let all = hello.len() + commands.len();
    require(came == 0 || came == hello.len() || came == all, || format!("{came} bytes came of {all}"))?;
    Ok(came == all)
}

fn tls(levels: &Levels<'_>, from: &str, port: u16) -> Result<bool, String> {
    let to = SocketAddr::from((if from == "stranger" { ORDERS } else { VIP }, port));
    let request = "GET / HTTP/1.1\r\nhost: levels\r\nconnection: close\r\n\r\n";
    let made = apps::openssl_client(levels.host(from), to, NAME, "-tls1_3", request, DEADLINE);
    Ok(made.map_err(|e| e.to_string())?.answer.contains("200 OK"))
}

fn psql(levels: &Levels<'_>, from: &str, port: u16, mode: &str, expected: &str) -> Result<bool, String> {
    let to = if from == "stranger" { ORDERS } else { VIP };
    let statement = "select ssl, coalesce(version, 'none') from pg_stat_ssl where pid = pg_backend_pid()";
    let connection = format!("host={to} port={port} user=postgres dbname=postgres sslmode={mode} gssencmode=disable");
    let command = Command::new("psql").args(["-X", "-A", "-t", "-q", "-d", &connection, "-c", statement]);
    let (answered, said) = levels.output(from, command.env("PGCONNECT_TIMEOUT", "10"))?;
    require(!answered || said.trim() == expected, || said.clone())?;
    Ok(answered)
}

/// A login packet of SQL Server whose body is a TLS record.
fn tds() -> Vec<u8> {
    let hello = client_hello();
    let length = u8::try_from(hello.len() + 8).expect("a short hello");
    [&[0x12, 1, 0, length, 0, 0, 1, 0][..], &hello].concat()
}

/// TLS 1.3, as small as it can be: one suite, no SNI.
pub(crate) fn client_hello() -> Vec<u8> {
    let rest = [0, 0, 2, 0x13, 1, 1, 0, 0, 7, 0, 43, 0, 3, 2, 3, 4];
    let body = [&[3, 3][..], &[1; 32], &rest].concat();
    let length = u8::try_from(body.len()).expect("a short hello");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

fn levels(mesh: &mut Mesh) -> Result<(), String> {
    let levels = Levels::start(mesh)?;
    let mut wrong = Vec::new();
    for (place, transport) in ["MeshOnly", "HttpsOnly", "Permissive"].into_iter().enumerate() {
        mesh.apply(&policy(transport, "1.2"))?;
        for Row(what, ask, words) in ROWS {
            let word = words[place];
            let (reached, before) = (levels.reached()?, levels.refusals(word)?);
            let passed = ask(&levels, "stranger").map_err(|why| format!("{transport}: {what}: {why}"))?;
            let (touched, counted) = (levels.reached()? > reached, levels.refusals(word)? > before);
            // Redis and PostgreSQL do not count; they answered, or did not do what was asked.
            let as_told = passed == word.is_empty() && (word.is_empty() || counted && !touched);
            if !as_told {
                wrong.push(format!(
                    "{transport}: {what}: {word:?}, but passed {passed} counted {counted} reached {touched}"
                ));
            }
            // Who comes through a sidecar is not asked what its bytes are, on any level.
            if !what.contains("after a ClientHello")
                && !ask(&levels, "web").map_err(|why| format!("web: {what}: {why}"))?
            {
                wrong.push(format!("{transport}: {what}: web is refused"));
            }
        }
    }
    require(wrong.is_empty(), || wrong.join("\n"))
}

/// Endpoints without a sidecar: nobody but the caller's own sidecar can keep the service's transport.
fn sender(mesh: &mut Mesh) -> Result<(), String> {
    let stranger = mesh.world().host("stranger").clone();
    let certificate = SelfSigned::new(&[NAME]).map_err(|e| e.to_string())?;
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let nginx = Nginx::start(&stranger, 9080, 9443, 9099, &certificate).map_err(|e| e.to_string())?;
    let echo = apps::echo_server(&stranger, any(7000)).map_err(|e| e.to_string())?;
    let reached = || nginx.accepted().map(|nginx| nginx + echo.accepted()).map_err(|e| e.to_string());
    let slice = format!(
        "{}apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: shop\n  name: levels-1\n  labels: {{ \
         kubernetes.io/service-name: levels }}\naddressType: IPv4\nendpoints: [{{ addresses: [10.20.1.99] }}]\nports:\n  - {{ \
         name: http, port: 9080 }}\n  - {{ name: https, port: 9443 }}\n  - {{ name: undeclared, port: 9443 }}\n  - {{ name: raw, \
         port: 7000 }}\n---\n",
        service(&[(9080, "http"), (9443, "https"), (9444, "undeclared"), (7000, "raw")])
            .replace("  selector: { app: orders }\n", "")
    );
    mesh.apply(&format!("{slice}{}", policy("Permissive", "1.2")))?;
    let web = mesh.world().host("web").clone();
    let to = |port| SocketAddr::from((VIP, port));
    let curl = || {
        let got = apps::curl(&web, &[format!("http://{VIP}:9080/")], DEADLINE).map_err(|e| e.to_string())?;
        Ok(got.status == 200)
    };
    let bytes = || Ok(raw::exchange(&web, to(7000), b"PING\r\n", Then::HalfClose, DEADLINE).bytes == b"PING\r\n");
    let tls = |port, flag: &str| {
        let request = "GET / HTTP/1.1\r\nhost: levels\r\nconnection: close\r\n\r\n";
        let made = apps::openssl_client(&web, to(port), NAME, flag, request, DEADLINE);
        Ok(made.map_err(|e| e.to_string())?.answer.contains("200 OK"))
    };
    type Said<'s> = (&'s str, &'s dyn Fn() -> Result<bool, String>, [&'s str; 3]);
    let rows: [Said<'_>; 5] = [
        ("HTTP", &curl, PLAIN),
        ("bytes", &bytes, PLAIN),
        ("TLS 1.3 where it is declared", &|| tls(9443, "-tls1_3"), ["mesh-only", "", ""]),
        ("TLS 1.3 where it is not", &|| tls(9444, "-tls1_3"), ["mesh-only", "tls-not-declared", ""]),
        ("TLS 1.1 where it is declared", &|| tls(9443, "-tls1_1"), ["tls-version", "tls-version", ""]),
    ];
    let refusals =
        |word: &str| mesh.metric("web", "isthmus_refused_total", &[("reason", word), ("direction", "outbound")]);
    let mut wrong = Vec::new();
    for (place, transport) in ["MeshOnly", "HttpsOnly", "Permissive"].into_iter().enumerate() {
        mesh.apply(&policy(transport, "1.2"))?;
        for (what, ask, words) in &rows {
            let word = words[place];
            let (before, there) = (refusals(word)?, reached()?);
            let passed = ask()?;
            let (counted, touched) = (refusals(word)? > before, reached()? > there);
            if passed != word.is_empty() || counted == word.is_empty() && !word.is_empty() || touched != passed {
                wrong.push(format!(
                    "{transport}: {what}: {word:?}, but passed {passed} counted {counted} reached {touched}"
                ));
            }
        }
    }
    require(wrong.is_empty(), || wrong.join("\n"))
}
