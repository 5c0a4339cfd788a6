//! Policy changes while tunnels, requests and captured connections are open: what is no longer allowed ends within a
//! second, and nobody else notices.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::model::{Conditions, Rule, RuleMode, Standing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::live::{Entry, Signal};
use super::world_test::{OWN, Spec, VIP, World, app, get, id, mirror, on_worker, publish_inbound, world};
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{AppProtocol, Enforcement, Transport};

fn deny(until_ms: Option<i64>, conditions: Conditions) -> Rule {
    Rule { policy: "shop/closed".into(), index: 0, mode: RuleMode::Enforce, until_ms, conditions: Ok(conditions) }
}

fn on_path(path: &str) -> Conditions {
    Conditions { paths: Some(vec![path.parse().unwrap()]), ..Default::default() }
}

fn header(name: &str) -> Conditions {
    let header = isthmus_proto::model::HeaderMatch { name: name.into(), any_of: vec![] };
    Conditions { headers: vec![header], ..Default::default() }
}

/// Says a byte for each that it hears.
async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Answers at once, and then a chunk for each byte of the body that it hears; `/slow` gets no answer at all.
async fn stream_app(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    if head.starts_with(b"POST /slow") {
        let _ = stream.read_to_end(&mut Vec::new()).await;
        return;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut byte = [0; 1];
    while stream.read_exact(&mut byte).await.is_ok() {
        if byte[0].is_ascii_lowercase() {
            let _ = stream.write_all(&[b"1\r\n", &byte[..], b"\r\n"].concat()).await;
        }
    }
}

/// A request whose answer is under way.
async fn open_stream(to: SocketAddr, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: orders.shop\r\nTransfer-Encoding: chunked\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    say(&mut stream, b'a').await.unwrap();
    stream
}

/// Sends one chunk, and waits until it has come back.
async fn say(stream: &mut TcpStream, byte: u8) -> std::io::Result<()> {
    stream.write_all(&[b"1\r\n", &[byte][..], b"\r\n"].concat()).await?;
    let mut heard = Vec::new();
    while !heard.ends_with(&[b"1\r\n", &[byte][..], b"\r\n"].concat()) {
        heard.push(stream.read_u8().await?);
    }
    Ok(())
}

/// Within a second.
async fn ends(stream: &mut TcpStream) {
    let started = Instant::now();
    let mut rest = [0; 64];
    loop {
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut rest)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
            Err(_) => panic!("still open after a second"),
        }
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

fn change(world: &World, version: u64, spec: Spec) {
    publish_inbound(&world.orders.state, version, &spec);
}

#[tokio::test]
async fn of_two_requests_under_way_the_one_that_is_no_longer_allowed_ends() {
    on_worker(async {
        let (port, _) = app(stream_app).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let mut closed = open_stream(web, "/closed/1", "").await;
        let mut open = open_stream(web, "/open/1", "").await;
        change(&world, 2, Spec { deny: vec![deny(None, on_path("/closed/*"))], ..world.spec.clone() });
        ends(&mut closed).await;
        say(&mut open, b'b').await.unwrap();
        assert!(get(web, "/closed/1", "").await.unwrap().starts_with("HTTP/1.1 403"));
        // Allowed again, and refused by its method.
        change(&world, 3, world.spec.clone());
        let mut again = open_stream(web, "/closed/1", "").await;
        let posts = Conditions { methods: Some(vec!["POST".into()]), ..Default::default() };
        change(&world, 4, Spec { deny: vec![deny(None, posts)], ..world.spec.clone() });
        ends(&mut again).await;
        ends(&mut open).await;
    })
    .await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_answered_with_the_refusal() {
    on_worker(async {
        let (port, accepted) = app(stream_app).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let mut waiting = TcpStream::connect(web).await.unwrap();
        let head = b"POST /slow HTTP/1.1\r\nHost: o\r\nContent-Length: 1\r\n\r\nx";
        waiting.write_all(head).await.unwrap();
        while accepted.get() == 0 {
            tokio::task::yield_now().await;
        }
        change(&world, 2, Spec { deny: vec![deny(None, on_path("/slow"))], ..world.spec.clone() });
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(1), waiting.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).to_lowercase();
        assert!(answer.starts_with("http/1.1 403") && answer.contains("isthmus-denied: denied-by-rule"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn an_exception_ends_by_itself_and_so_does_what_lives_by_it() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let tcp = Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) };
        let world = world(tcp.clone()).await;
        let (web, _) = world.capture(VIP).await;
        let mut tunnel = TcpStream::connect(web).await.unwrap();
        tunnel.write_all(b"1").await.unwrap();
        assert_eq!(tunnel.read_u8().await.unwrap(), b'1');
        // A bypass is what holds it open, and for so long only.
        let until = SystemClock.now_ms() + 700;
        let standing = Standing { bypass_until_ms: Some(until), ..Standing::default() };
        let closed = Spec { deny: vec![deny(None, Conditions::default())], ..tcp.clone() };
        change(&world, 2, Spec { standing, ..closed });
        tunnel.write_all(b"2").await.unwrap();
        assert_eq!(tunnel.read_u8().await.unwrap(), b'2');
        assert!(tokio::time::timeout(Duration::from_secs(2), tunnel.read_u8()).await.unwrap().is_err());
        assert!(SystemClock.now_ms() >= until, "not before its time");
        // The same of a rule: a deny that ends lets in, an allow that ends does not.
        let until = SystemClock.now_ms() + 500;
        change(&world, 3, Spec { deny: vec![deny(Some(until), Conditions::default())], ..tcp });
        while SystemClock.now_ms() < until {
            let mut refused = TcpStream::connect(web).await.unwrap();
            let _ = refused.write_all(b"3").await;
            let early = refused.read_u8().await;
            assert!(early.is_err() || SystemClock.now_ms() >= until, "let in before the deny ended");
        }
        let mut tunnel = TcpStream::connect(web).await.unwrap();
        tunnel.write_all(b"4").await.unwrap();
        assert_eq!(tunnel.read_u8().await.unwrap(), b'4');
    })
    .await;
}

#[tokio::test]
async fn headers_of_a_request_under_way_are_judged_where_they_are_known_and_else_it_ends() {
    on_worker(async {
        let (port, _) = app(stream_app).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let mut plain = open_stream(web, "/a", "").await;
        let mut events = open_stream(web, "/a", "Accept: text/event-stream\r\n").await;
        let mut debug = open_stream(web, "/a", "Accept: text/event-stream\r\nX-Debug: 1\r\n").await;
        change(&world, 2, Spec { deny: vec![deny(None, header("x-debug"))], ..world.spec.clone() });
        ends(&mut debug).await;
        ends(&mut plain).await;
        say(&mut events, b'b').await.unwrap();
        let mut plain = open_stream(web, "/a", "").await;
        change(&world, 3, Spec { deny: vec![deny(None, header("x-other"))], ..world.spec.clone() });
        say(&mut plain, b'c').await.unwrap();
        say(&mut events, b'c').await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn plaintext_that_was_let_in_ends_when_the_port_takes_the_mesh_only() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let permissive = Spec { protocol: AppProtocol::Tcp, transport: Transport::Permissive, ..Spec::http(port) };
        let world = world(permissive.clone()).await;
        let to = world.capture_inbound(SocketAddr::new(OWN, port)).await;
        let mut plain = TcpStream::connect(to).await.unwrap();
        plain.write_all(b"1").await.unwrap();
        assert_eq!(plain.read_u8().await.unwrap(), b'1');
        change(
            &world,
            2,
            Spec { enforcement: Enforcement::Observe, transport: Transport::MeshOnly, ..permissive.clone() },
        );
        plain.write_all(b"2").await.unwrap();
        assert_eq!(plain.read_u8().await.unwrap(), b'2', "in Observe everything passes");
        change(&world, 3, Spec { transport: Transport::MeshOnly, ..permissive });
        ends(&mut plain).await;
    })
    .await;
}

#[tokio::test]
async fn captured_requests_end_too() {
    on_worker(async {
        let (port, _) = app(stream_app).await;
        let permissive = Spec { transport: Transport::Permissive, ..Spec::http(port) };
        let world = world(permissive.clone()).await;
        let to = world.capture_inbound(SocketAddr::new(OWN, port)).await;
        let (mut closed, mut open) = (open_stream(to, "/closed", "").await, open_stream(to, "/open", "").await);
        change(&world, 2, Spec { deny: vec![deny(None, on_path("/closed"))], ..permissive });
        ends(&mut closed).await;
        say(&mut open, b'b').await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_app_receives_the_path_that_was_matched() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        let seen = async |path: &str| {
            let answer = get(web, path, "").await.unwrap();
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
            if answer.starts_with("HTTP/1.1 200") { body.lines().next().unwrap().to_owned() } else { "refused".into() }
        };
        // Nobody looks: nothing is touched.
        assert_eq!(seen("/a/../b//%7ec?x=/../y").await, "GET /a/../b//%7ec?x=/../y");
        change(&world, 2, Spec { deny: vec![deny(None, on_path("/admin*"))], ..world.spec.clone() });
        for (path, expected) in [
            ("/a/../b//%7ec?x=/../y", "GET /b/~c?x=/../y"),
            ("/orders/caf%c3%a9?q", "GET /orders/caf%C3%A9?q"),
            ("/x/../admin", "refused"),
            ("/%61dmin/users", "refused"),
            ("/ADMIN", "refused"),
            ("/x/..%2fadmin", "refused"),
            ("/x/%2e%2e/admin", "refused"),
            ("/x/..;/admin", "refused"),
            ("//admin", "refused"),
        ] {
            assert_eq!(seen(path).await, expected, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_of_which_the_same_is_said_stays_what_it_was() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let before = world.orders.state.snapshot();
        let told = |port: u16| isthmus_proto::model::InboundPort {
            port,
            protocol: AppProtocol::Http,
            services: vec![],
            policy: Err(isthmus_proto::model::ModelError::new("x", "y")),
            options: Default::default(),
            standing: Standing::default(),
            probes: Vec::new(),
            https_redirect: None,
        };
        let inbound = |ports| isthmus_proto::model::Inbound {
            workload: "shop/orders".parse().unwrap(),
            addresses: vec![OWN],
            ports,
            default_policy: Err(isthmus_proto::model::ModelError::new("x", "y")),
            default_standing: Standing::default(),
            registered: Vec::new(),
        };
        let one = crate::state::inbound::Inbound::next(inbound(vec![told(1), told(2)]), before.inbound());
        let changed = isthmus_proto::model::InboundPort { protocol: AppProtocol::Tcp, ..told(2) };
        let two = crate::state::inbound::Inbound::next(inbound(vec![told(1), changed]), &one);
        assert!(Arc::ptr_eq(one.port(1), two.port(1)) && Arc::ptr_eq(one.undeclared(), two.undeclared()));
        assert!(!Arc::ptr_eq(one.port(2), two.port(2)));
    })
    .await;
}

/// Between the decision and the admission the app is dialled, and a policy may come.
#[tokio::test]
async fn a_policy_that_comes_while_the_app_is_dialled_is_asked_of_what_is_let_in_then() {
    on_worker(async {
        let (port, _) = app(echo).await;
        let world = world(Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) }).await;
        let entry = |signal: &Rc<Signal>| Entry {
            port,
            peer: Some(id("web")),
            address: OWN,
            arrived: Arrived::Mesh,
            head: None,
            may_probe: false,
            signal: Rc::clone(signal),
        };
        let allowed = Rc::<Signal>::default();
        let _admitted = world.inbound.live.admit_late(entry(&allowed));
        let open = tokio::time::timeout(Duration::from_millis(1), allowed.ended()).await;
        assert!(open.is_err(), "it is allowed");
        let spec = Spec { deny: vec![deny(None, Conditions::default())], ..world.spec.clone() };
        publish_inbound(&world.orders.state, 2, &spec);
        let late = Rc::<Signal>::default();
        let _admitted = world.inbound.live.admit_late(entry(&late));
        assert_eq!(late.ended().await.reason, Reason::DeniedByRule);
    })
    .await;
}
