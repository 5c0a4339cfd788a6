//! What leaves the mesh: by name, by range, over TLS only; each refusal with the arm that shows that nothing else stood in
//! the way. Outside are two hosts with nginx, 203.0.113.10 and 203.0.113.20.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::{self, Fetched, Nginx, SelfSigned, Server};
use isthmus_world::mesh::{Mesh, resources};
use isthmus_world::{CLOUD, Host, find};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("egress_goes_to_the_names_that_are_allowed_wherever_the_app_dials", names),
    ("egress_over_tls_only_holds_for_every_protocol", tls_only),
    ("egress_denied_by_default_keeps_udp_but_dns_to_the_resolvers", udp),
    ("udp_waits_for_the_first_word_of_the_control_plane", udp_at_first),
    ("egress_in_audit_and_in_observe_lets_through_and_tells", audit),
    ("egress_that_is_no_longer_allowed_ends_within_a_second", live),
];

pub(crate) const RIGHT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const WRONG: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// Of a server that only echoes.
const ECHO: u16 = 7000;
/// Of a server that speaks first, on a port that says so.
const GREETER: u16 = 22;

pub(crate) fn can_run() -> bool {
    find::or_skip(&["curl", "nginx", "openssl"], "what leaves the mesh").is_some()
}

/// The hosts outside, and what runs there.
pub(crate) struct Outside {
    pub(crate) right: Nginx,
    /// Of both nginx.
    pub(crate) certificate: SelfSigned,
    pub(crate) host: Host,
    wrong: Nginx,
    echo: Server,
    greeter: Server,
}

impl Outside {
    pub(crate) fn start(mesh: &mut Mesh) -> Result<Outside, String> {
        let started = Outside::try_start(mesh).map_err(|e| e.to_string())?;
        let names: Vec<(IpAddr, &str)> = vec![
            (RIGHT.into(), "api.example files.cdn.example"),
            (WRONG.into(), "other.example"),
            ("10.20.1.99".parse().expect("an address"), "inside.cdn.example"),
            ("10.96.0.40".parse().expect("an address"), "payments.shop.svc.cluster.local payments.shop"),
            ("10.96.0.10".parse().expect("an address"), "orders.shop.svc.cluster.local"),
        ];
        mesh.world().host("web").set_hosts(&names).map_err(|e| e.to_string())?;
        Ok(started)
    }

    fn try_start(mesh: &mut Mesh) -> Result<Outside, isthmus_world::Error> {
        let right = mesh.world_mut().add_host(CLOUD, "right", RIGHT)?;
        let wrong = mesh.world_mut().add_host(CLOUD, "wrong", WRONG)?;
        let certificate = SelfSigned::new(&["api.example", "files.cdn.example", "other.example"])?;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Ok(Outside {
            host: right.clone(),
            right: Nginx::start(&right, 80, 443, 8099, &certificate)?,
            wrong: Nginx::start(&wrong, 80, 443, 8099, &certificate)?,
            echo: apps::echo_server(&right, any(ECHO))?,
            greeter: apps::greeter(&right, any(GREETER), "SSH-2.0-outside\r\n")?,
            certificate,
        })
    }

    /// What came to the two nginx, and to the echo.
    fn reached(&self) -> Result<[u64; 3], String> {
        let of = |nginx: &Nginx| nginx.accepted().map_err(|e| e.to_string());
        Ok([of(&self.right)?, of(&self.wrong)?, self.echo.accepted()])
    }
}

pub(crate) fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: EgressPolicy\nmetadata:\n  namespace: shop\n  name: out\nspec:\n  \
         workloads: {{ matchLabels: {{ app: web }} }}\n{spec}"
    )
}

pub(crate) fn fetch(mesh: &Mesh, arguments: &[&str]) -> Result<Fetched, String> {
    apps::curl(mesh.world().host("web"), arguments, DEADLINE).map_err(|e| e.to_string())
}

pub(crate) fn refusals(mesh: &Mesh, reason: &str) -> Result<f64, String> {
    mesh.metric("web", "isthmus_refused_total", &[("reason", reason), ("direction", "outbound")])
}

/// Refused for `reason`, seen in the metric, and nobody outside saw anything.
pub(crate) fn refused(mesh: &Mesh, outside: &Outside, reason: &str, arguments: &[&str]) -> Result<Fetched, String> {
    let (before, reached) = (refusals(mesh, reason)?, outside.reached()?);
    let got = fetch(mesh, arguments)?;
    let counted = refusals(mesh, reason)? - before;
    require(counted >= 1.0, || format!("{arguments:?}: not counted as {reason}: {got:?}; {}", log(mesh)))?;
    require(outside.reached()? == reached, || format!("{arguments:?} reached somebody: {got:?}"))?;
    if arguments.iter().any(|argument| argument.starts_with("http://")) {
        require(got.header("isthmus-denied") == reason, || format!("{arguments:?}: {got:?}"))?;
        require(got.header("isthmus-decision").len() == 16, || format!("{arguments:?}: no id: {got:?}"))?;
    } else {
        require(got.error.is_some(), || format!("{arguments:?} was answered: {got:?}"))?;
    }
    Ok(got)
}

pub(crate) fn passes(mesh: &Mesh, arguments: &[&str]) -> Result<Fetched, String> {
    let got = fetch(mesh, arguments)?;
    require(got.status == 200, || format!("{arguments:?}: {got:?}; {}", log(mesh)))?;
    Ok(got)
}

fn log(mesh: &Mesh) -> String {
    let log = mesh.sidecar("web").log();
    log[log.len().saturating_sub(4)..].join("\n")
}

pub(crate) fn exchange(mesh: &Mesh, port: u16, bytes: &[u8], then: Then) -> raw::Answer {
    raw::exchange(mesh.world().host("web"), SocketAddr::from((RIGHT, port)), bytes, then, DEADLINE)
}

fn names(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    // The control arm: while nobody says anything, everything passes, unread.
    for url in ["http://other.example/", "https://other.example/", "https://api.example/"] {
        passes(mesh, &[url])?;
    }
    require(exchange(mesh, ECHO, b"hello", Then::HalfClose).bytes == b"hello", || "no echo".into())?;

    mesh.apply(&policy("  allow:\n    - { hosts: [api.example, \"*.cdn.example\"], ports: [80, 443] }\n"))?;
    passes(mesh, &["https://files.cdn.example/"])?;
    passes(mesh, &["http://api.example/"])?;
    // Whatever address the app uses for the name, it is our own resolver's that is dialled.
    let misled = format!("api.example:443:{WRONG}");
    let before = outside.reached()?;
    let got = passes(mesh, &["--resolve", &misled, "https://api.example/"])?;
    require(got.json()["host"] == "api.example", || format!("{got:?}"))?;
    let now = outside.reached()?;
    require(now[0] > before[0] && now[1] == before[1], || format!("{before:?} became {now:?}"))?;
    let misled = format!("api.example:80:{WRONG}");
    passes(mesh, &["--resolve", &misled, "http://api.example/"])?;
    require(outside.reached()?[1] == before[1], || "the app's address was dialled".into())?;

    let got = refused(mesh, &outside, "not-allowed", &["http://other.example/"])?;
    let decision = mesh.decision("web", got.header("isthmus-decision"))?;
    let yaml = decision["wouldAllow"].as_str().unwrap_or_default();
    require(yaml.contains("hosts: [other.example], ports: [80]"), || format!("{decision}"))?;
    for url in ["https://other.example/", "http://other.example/", "https://203.0.113.10/", "http://203.0.113.10/"] {
        refused(mesh, &outside, "not-allowed", &[url])?;
    }
    // A name that is not the rule's, where the rule's name lives: fronting by Host, and by SNI.
    let fronted = format!("other.example:443:{RIGHT}");
    refused(mesh, &outside, "not-allowed", &["--resolve", &fronted, "https://other.example/"])?;
    refused(mesh, &outside, "not-allowed", &["-H", "Host: other.example", "http://api.example/"])?;
    // A name that its owner points into the mesh.
    let misled = format!("inside.cdn.example:80:{RIGHT}");
    refused(mesh, &outside, "name-unresolved", &["--resolve", &misled, "http://inside.cdn.example/"])?;
    refused(
        mesh,
        &outside,
        "name-unresolved",
        &["--resolve", "none.cdn.example:443:203.0.113.10", "https://none.cdn.example/"],
    )?;
    let raw = exchange(mesh, ECHO, b"hello", Then::Read);
    require(raw.bytes.is_empty() && raw.end == End::Reset, || format!("raw bytes: {raw:?}"))?;

    mesh.apply(&policy(&format!(
        "  allow:\n    - {{ cidrs: [203.0.113.10/32], ports: [{ECHO}, {GREETER}] }}\n    - {{ hosts: [api.example] }}\n  \
         deny:\n    - {{ cidrs: [203.0.113.20/32] }}\n"
    )))?;
    require(exchange(mesh, ECHO, b"hello", Then::HalfClose).bytes == b"hello", || "no echo by range".into())?;
    let greeting = exchange(mesh, GREETER, b"", Then::HalfClose);
    require(greeting.text().starts_with("SSH-2.0-outside"), || format!("{greeting:?}"))?;
    refused(mesh, &outside, "denied-by-rule", &["--resolve", "api.example:443:203.0.113.20", "https://api.example/"])?;
    let greeted = outside.greeter.accepted();
    // What is not of this workload is not its business.
    require(mesh.get("batch", "http://203.0.113.20/").is_ok_and(|answer| answer.status == 200), || {
        "batch is refused".into()
    })?;
    require(greeted >= 1, || "nobody was greeted".into())
}

fn tls_only(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    let versions = [("-tls1_1", "1.1"), ("-tls1_2", "1.2"), ("-tls1_3", "1.3")];
    let handshake = |flag: &str| {
        let to = SocketAddr::from((RIGHT, 443));
        let request = "GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
        apps::openssl_client(mesh.world().host("web"), to, "api.example", flag, request, DEADLINE)
            .map_err(|e| e.to_string())
    };
    for (flag, version) in versions {
        let made = handshake(flag)?;
        require(made.version.is_some(), || format!("before the policy TLS {version} fails: {}", made.log))?;
    }
    passes(mesh, &["http://api.example/"])?;

    mesh.apply(&policy("  transport: HttpsOnly\n  minTlsVersion: \"1.2\"\n"))?;
    for (flag, version) in versions {
        let (before, made) = (refusals(mesh, "tls-version")?, handshake(flag)?);
        let (old, counted) = (version == "1.1", refusals(mesh, "tls-version")? > before);
        require(made.version.is_none() == old && counted == old, || format!("TLS {version}: {}", made.log))?;
    }
    passes(mesh, &["https://api.example/"])?;
    passes(mesh, &["https://other.example/"])?;
    let got = refused(mesh, &outside, "plaintext", &["http://api.example/"])?;
    require(got.status == 403, || format!("{got:?}"))?;
    for bytes in [&b"PING\r\n"[..], b"\x00\x01\x02\x03", b"EHLO me\r\n"] {
        let (before, reached) = (refusals(mesh, "plaintext")?, outside.reached()?);
        let got = exchange(mesh, ECHO, bytes, Then::Read);
        require(got.bytes.is_empty() && got.end == End::Reset, || format!("{bytes:?}: {got:?}"))?;
        require(refusals(mesh, "plaintext")? > before && outside.reached()? == reached, || format!("{bytes:?}"))?;
    }
    // A ClientHello proves nothing: what follows it stays until a ServerHello came back. The echo says it back instead.
    let before = outside.echo.requests();
    let hello = [&client_hello()[..], b"PING\r\nSET a b\r\n"].concat();
    let got = exchange(mesh, ECHO, &hello, Then::Read);
    require(got.end == End::Reset && !got.text().contains("PING"), || format!("after a ClientHello: {got:?}"))?;
    require(outside.echo.requests() > before, || "the ClientHello did not reach the server".into())
}

/// TLS 1.3, as small as it can be: one suite, no SNI.
fn client_hello() -> Vec<u8> {
    let rest = [0, 0, 2, 0x13, 1, 1, 0, 0, 7, 0, 43, 0, 3, 2, 3, 4];
    let body = [&[3, 3][..], &[1; 32], &rest].concat();
    let length = u8::try_from(body.len()).expect("a short hello");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

fn udp(mesh: &mut Mesh) -> Result<(), String> {
    let _outside = Outside::start(mesh)?;
    let send = |port: u16| {
        mesh.world().host("web").run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
            Ok::<_, String>(socket.send_to(b"hello", (RIGHT, port)).map(|_| ()).map_err(|error| error.kind()))
        })
    };
    require(send(9999)?.is_ok() && send(53)?.is_ok(), || "UDP does not pass before the policy".into())?;
    let site = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: azure-eastus }\nspec: { ranges: [10.10.0.0/16, \
                \"fd00:10::/64\"], resolvers: [203.0.113.10] }\n---\n";
    mesh.apply(&format!("{site}{}", policy("  default: Deny\n")))?;
    let dropped = Some(std::io::ErrorKind::PermissionDenied);
    mesh.until(DEADLINE, "UDP is dropped", |_| Ok((send(9999)?.err() == dropped).then_some(())))?;
    require(send(53)?.is_ok(), || "DNS to the Site's resolver is dropped".into())?;
    // Counted and said; the other workload's UDP passes.
    mesh.until(DEADLINE, "the drop is counted", |mesh| Ok((refusals(mesh, "udp")? >= 1.0).then_some(())))?;
    require(mesh.sidecar("web").log().iter().any(|line| line.contains("UDP cannot be looked into")), || log(mesh))?;
    let others = mesh.world().host("batch").run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        socket.send_to(b"hello", (RIGHT, 9999)).map_err(|e| e.to_string())
    });
    require(others.is_ok(), || format!("batch: {others:?}"))?;

    mesh.apply(&policy("  default: Allow\n"))?;
    mesh.until(DEADLINE, "UDP passes again", |_| Ok(send(9999)?.is_ok().then_some(())))
}

/// The very first start, beside a control plane that does not answer: nobody has said yet that UDP may leave.
fn udp_at_first(mesh: &mut Mesh) -> Result<(), String> {
    let send = |mesh: &Mesh, port: u16| {
        mesh.world().host("batch").run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
            Ok::<_, String>(socket.send_to(b"hello", (RIGHT, port)).map(|_| ()).map_err(|error| error.kind()))
        })
    };
    require(send(mesh, 9999)?.is_ok(), || "the control arm: UDP does not pass while nothing restricts it".to_owned())?;
    std::fs::remove_file(mesh.file("batch.token")).map_err(|e| e.to_string())?;
    mesh.token("shop/batch", "1h", "batch.token")?;
    mesh.kill_sidecar("batch")?;
    std::fs::remove_dir_all(mesh.file("batch").join("state")).map_err(|e| e.to_string())?;
    mesh.control_mut().kill();
    mesh.start_sidecar_in("batch", &[])?;
    let dropped = Some(std::io::ErrorKind::PermissionDenied);
    mesh.until(DEADLINE, "UDP is dropped", |mesh| Ok((send(mesh, 9999)?.err() == dropped).then_some(())))?;
    mesh.restart_control()?;
    mesh.until(DEADLINE * 2, "UDP passes once the proxy is told", |mesh| Ok(send(mesh, 9999)?.is_ok().then_some(())))
}

fn would_refuse(mesh: &Mesh, reason: &str) -> Result<f64, String> {
    mesh.metric("web", "isthmus_would_refuse_total", &[("reason", reason), ("direction", "outbound")])
}

fn audit(mesh: &mut Mesh) -> Result<(), String> {
    let _outside = Outside::start(mesh)?;
    let spec = "  allow:\n    - { hosts: [api.example] }\n  transport: HttpsOnly\n";
    let observe = resources::mesh(&mesh.collector_url(), "24h").replace("enforcement: Enforce", "enforcement: Observe");
    for (how, documents) in
        [("Audit", policy(&format!("  mode: Audit\n{spec}"))), ("Observe", format!("{observe}\n---\n{}", policy(spec)))]
    {
        mesh.apply(&documents)?;
        for (url, reason) in [
            ("https://other.example/", Some("not-allowed")),
            ("http://other.example/", Some("not-allowed")),
            ("http://api.example/", Some("plaintext")),
            ("https://api.example/", None),
        ] {
            let all = ["not-allowed", "plaintext"];
            let count = || all.iter().map(|word| would_refuse(mesh, word)).sum::<Result<f64, String>>();
            let (before, one) = (count()?, reason.map(|word| would_refuse(mesh, word)).transpose()?);
            passes(mesh, &[url])?;
            let more = count()? - before;
            require((more > 0.0) == reason.is_some(), || format!("{how}: {url}: {more} more; {}", log(mesh)))?;
            if let (Some(word), Some(one)) = (reason, one) {
                require(would_refuse(mesh, word)? > one, || format!("{how}: {url}: not {word}"))?;
            }
        }
        // And told by the spans of what passed, with an id to ask with.
        let says = |word: &str, span: &isthmus_world::otlp::Span| {
            let is = |name, value| span.attribute(name) == Some(value);
            is("isthmus.hop", "outbound")
                && is("isthmus.would_refuse", word)
                && span.attribute("isthmus.decision.id").is_some()
        };
        let all = |spans: &[isthmus_world::otlp::Span]| {
            ["not-allowed", "plaintext"].iter().all(|word| spans.iter().any(|span| says(word, span)))
        };
        mesh.collector().wait("spans of what would be refused", DEADLINE, all).map_err(|e| format!("{how}: {e}"))?;
        mesh.collector().clear();
    }
    Ok(())
}

fn live(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    let _ = &outside;
    mesh.apply(&policy(&format!("  allow:\n    - {{ cidrs: [203.0.113.10/32], ports: [{ECHO}] }}\n")))?;
    let web = mesh.world().host("web").clone();
    let (told, opened) = std::sync::mpsc::channel();
    let held = web.tokio(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect((RIGHT, ECHO)).await.map_err(|e| e.to_string())?;
        let mut buffer = [0; 5];
        stream.write_all(b"hello").await.map_err(|e| e.to_string())?;
        stream.read_exact(&mut buffer).await.map_err(|e| e.to_string())?;
        let _ = told.send(());
        let ended = stream.read(&mut buffer).await.map_err(|error| error.kind());
        Ok::<_, String>((ended, std::time::Instant::now()))
    });
    opened.recv_timeout(DEADLINE).map_err(|e| format!("the connection did not open: {e}"))?;
    // A change that still allows it disturbs nobody.
    mesh.apply(&policy("  allow:\n    - { cidrs: [203.0.113.0/24] }\n"))?;
    require(!held.is_finished(), || "a change that allows it ended the connection".into())?;
    mesh.apply(&policy("  default: Deny\n"))?;
    let in_force = std::time::Instant::now();
    let (ended, at) = web.block_on(held.join())?;
    require(ended == Err(std::io::ErrorKind::ConnectionReset), || format!("it ended as {ended:?}"))?;
    let late = at.saturating_duration_since(in_force);
    require(late < Duration::from_secs(1), || format!("it ended {late:?} after the policy was in force"))
}
