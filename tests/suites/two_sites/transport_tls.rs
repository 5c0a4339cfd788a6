//! The app's own TLS, version by version, against real clients and servers: what counts is what the ServerHello chose, and
//! nothing that follows a ClientHello leaves before it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_world::apps::raw::{self, Then};
use isthmus_world::apps::{self, Daemon, Nginx, SelfSigned};
use isthmus_world::mesh::Mesh;
use isthmus_world::{Command, Host};

use crate::transport::{NAME, VIP, client_hello, policy, service};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("tls_versions_are_held_by_both_sides_for_every_minimum", versions),
    ("tls_version_is_the_one_that_the_server_chose", chosen),
    ("early_data_waits_for_the_server_hello_and_then_passes", early_data),
];

const ORDERS: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 10);
const DEADLINE: Duration = Duration::from_secs(20);
const VERSIONS: [(&str, &str); 4] = [("1.0", "-tls1"), ("1.1", "-tls1_1"), ("1.2", "-tls1_2"), ("1.3", "-tls1_3")];

fn refusals(mesh: &Mesh, at: &str, word: &str) -> Result<f64, String> {
    mesh.metric(at, "isthmus_refused_total", &[("reason", word)])
}

fn handshake(host: &Host, to: SocketAddr, flag: &str) -> Result<apps::TlsAttempt, String> {
    let request = "GET / HTTP/1.1\r\nhost: levels\r\nconnection: close\r\n\r\n";
    apps::openssl_client(host, to, NAME, flag, request, DEADLINE).map_err(|e| e.to_string())
}

/// A host without sidecar is refused by the callee's; an app by its own, before anything leaves.
fn versions(mesh: &mut Mesh) -> Result<(), String> {
    let certificate = SelfSigned::new(&[NAME]).map_err(|e| e.to_string())?;
    let nginx = Nginx::start(mesh.world().host("orders"), 9080, 9443, 9098, &certificate).map_err(|e| e.to_string())?;
    let accepted = || nginx.accepted().map_err(|e| e.to_string());
    let mut wrong = Vec::new();
    mesh.apply(&service(&[(9443, "https")]))?;
    for (minimum, _) in VERSIONS {
        mesh.apply(&policy("HttpsOnly", minimum))?;
        for (from, ip, refuser) in [("stranger", ORDERS, "orders"), ("web", VIP, "web")] {
            for (version, flag) in VERSIONS {
                let (before, reached) = (refusals(mesh, refuser, "tls-version")?, accepted()?);
                let made = handshake(mesh.world().host(from), SocketAddr::from((ip, 9443)), flag)?;
                // openssl itself writes `TLSv1` for the oldest.
                let spoke = made.version.map(|version| if version == "TLSv1" { "TLSv1.0".to_owned() } else { version });
                let passed = spoke == Some(format!("TLSv{version}")) && made.answer.contains("200 OK");
                let counted = refusals(mesh, refuser, "tls-version")? > before;
                let touched = accepted()? > reached;
                let may = version >= minimum;
                if (passed, counted, touched) != (may, !may, may) {
                    wrong.push(format!(
                        "{from}, TLS {version}, at least {minimum}: passed {passed} counted {counted} reached {touched}"
                    ));
                }
            }
        }
    }
    require(wrong.is_empty(), || wrong.join("\n"))
}

fn s_server(host: &Host, port: u16, more: &[&str]) -> Result<Daemon, String> {
    let directory = host.files().join(format!("s_server-{port}"));
    std::fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
    let files = SelfSigned::new(&[NAME]).and_then(|certificate| certificate.write(&directory));
    let (certificate, key) = files.map_err(|e| e.to_string())?;
    let daemon = Daemon::start(host, port, |_| {
        let command = Command::new("openssl").args(["s_server", "-accept", &port.to_string(), "-www", "-cert"]);
        Ok(command.arg(&certificate).arg("-key").arg(&key).args(more))
    });
    daemon.map_err(|e| e.to_string())
}

/// The client offers everything up to TLS 1.3; the server speaks 1.1 and nothing else.
fn chosen(mesh: &mut Mesh) -> Result<(), String> {
    let old = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    let _server = s_server(mesh.world().host("orders"), 9445, &old)?;
    mesh.apply(&service(&[(9445, "https")]))?;
    for (minimum, may) in [("1.2", false), ("1.1", true), ("1.3", false)] {
        mesh.apply(&policy("HttpsOnly", minimum))?;
        for (from, ip) in [("stranger", ORDERS), ("web", VIP)] {
            let before = refusals(mesh, "orders", "tls-version")?;
            // Whoever is held to nothing: a flag that forbids nothing.
            let made = handshake(mesh.world().host(from), SocketAddr::from((ip, 9445)), "-no_ssl3")?;
            let refused = refusals(mesh, "orders", "tls-version")? > before;
            // A caller that cannot offer the minimum is refused by its own sidecar; this one can.
            require(made.version.is_some() == may && refused != may, || {
                format!("{from}, at least {minimum}: {:?}, refused {refused}: {}", made.version, made.log)
            })?;
        }
    }
    Ok(())
}

/// Counts what comes to it, and never answers.
const RECORDER: &str = r#"
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    connection.settimeout(2)
    count = 0
    try:
        while more := connection.recv(65536):
            count += len(more)
    except OSError:
        pass
    print("got", count)
    connection.close()
"#;

fn early_data(mesh: &mut Mesh) -> Result<(), String> {
    let orders = mesh.world().host("orders");
    let recorder = apps::python_server(orders, 9447, RECORDER, &["9447"]).map_err(|e| e.to_string())?;
    let certificate = SelfSigned::new(&[NAME]).map_err(|e| e.to_string())?;
    let mut nginx = Nginx::start(orders, 9080, 9446, 9098, &certificate).map_err(|e| e.to_string())?;
    let early = [&b"\x17\x03\x03\x00\x10"[..], &[7; 16]].concat();
    let hello = client_hello();
    mesh.apply(&service(&[(9446, "https"), (9447, "tls-recorder")]))?;
    for (transport, came) in [("HttpsOnly", hello.len()), ("Permissive", hello.len() + early.len())] {
        mesh.apply(&policy(transport, "1.3"))?;
        let stranger = mesh.world().host("stranger");
        let to = SocketAddr::from((ORDERS, 9447));
        raw::exchange(stranger, to, [&hello[..], &early].concat(), Then::Read, Duration::from_secs(5));
        let line = format!("got {came}");
        let seen = recorder.process().wait_for_line(&line, DEADLINE, |seen| seen == line);
        seen.map_err(|e| format!("{transport}: {e}"))?;
    }
    mesh.apply(&policy("HttpsOnly", "1.3"))?;
    for (from, ip) in [("stranger", ORDERS), ("web", VIP)] {
        let host = mesh.world().host(from);
        let (session, data) = (host.files().join("session"), host.files().join("early"));
        std::fs::write(&data, "GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let client = |more: &[&str]| {
            let command =
                Command::new("openssl").args(["s_client", "-connect", &format!("{ip}:9446"), "-tls1_3", "-ign_eof"]);
            host.output(command.args(more).input("GET / HTTP/1.0\r\n\r\n"), DEADLINE).map_err(|e| e.to_string())
        };
        let (session, data) = (session.display().to_string(), data.display().to_string());
        client(&["-sess_out", &session])?;
        let resumed = client(&["-sess_in", &session, "-early_data", &data])?;
        let said = format!("{}{}", resumed.stdout, resumed.stderr);
        require(said.contains("Early data was accepted"), || {
            format!("{from}: {said}\nserver: {}", nginx.process().last_lines())
        })?;
    }
    Ok(())
}
