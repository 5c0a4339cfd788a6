//! The built-in programs and the span receiver.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::tls11::{self, Heard};
use isthmus_world::apps::{Load, Request, SelfSigned, TlsVersion, echo_server, greeter, http_server, https_server};
use isthmus_world::otlp::Receiver;
use isthmus_world::{Host, World};
use libtest_mimic::Trial;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use crate::{Outcome, SOON, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("the_http_server_tells_what_it_saw", http),
        test("own_tls_at_1_2_and_1_3", own_tls),
        test("tls_1_1_by_script", tls_1_1),
        test("echo_keeps_half_closed_connections_and_a_greeter_speaks_first", tcp),
        test("a_load_counts_its_failures_and_keeps_the_first", load),
        test("spans_are_received_over_tcp_and_unix_sockets", spans),
    ]
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A host with a loopback that is up.
fn alone() -> Result<(World, Host), isthmus_world::Error> {
    let world = World::two_sites().build()?;
    let host = world.host("orders").clone();
    Ok((world, host))
}

fn http() -> Outcome {
    let (_world, host) = alone()?;
    let server = http_server(&host, localhost())?;
    let url = format!("http://{}/a?b=c", server.address());
    let request = Request::get(&url).method("PUT").header("X-One", "1").header("x-one", "2").body("hello");
    let response = request.send(&host, SOON)?;
    let seen = response.json();
    assert_eq!(response.status, 200);
    assert_eq!((&seen["method"], &seen["path"], &seen["body"]), (&"PUT".into(), &"/a?b=c".into(), &"hello".into()));
    assert_eq!(seen["headers"]["x-one"], "1, 2");
    assert_eq!(Request::get(format!("http://{}/status/503", server.address())).send(&host, SOON)?.status, 503);
    assert_eq!((server.accepted(), server.requests()), (2, 2));
    Ok(())
}

fn own_tls() -> Outcome {
    let (_world, host) = alone()?;
    let server = https_server(&host, localhost(), &SelfSigned::new(&["orders"])?)?;
    for (version, name) in [(TlsVersion::Tls12, "TLSv1_2"), (TlsVersion::Tls13, "TLSv1_3")] {
        let response = Request::get("https://orders/").to(server.address()).tls(version).send(&host, SOON)?;
        assert_eq!(response.tls.as_deref(), Some(name));
        assert_eq!(response.json()["tls"], name);
    }
    Ok(())
}

fn tls_1_1() -> Outcome {
    let (_world, host) = alone()?;
    let old = tls11::server(&host, localhost())?;
    let (heard, answer) = tls11::hello(&host, old.address(), "orders", SOON);
    assert_eq!((heard, old.requests()), (Heard::ServerHello, 1), "{answer:?}");
    // rustls knows no TLS 1.1: this is what an app that refuses by itself looks like.
    let new = https_server(&host, localhost(), &SelfSigned::new(&["orders"])?)?;
    let (heard, answer) = tls11::hello(&host, new.address(), "orders", SOON);
    assert!(matches!(heard, Heard::Alert(_)), "{answer:?}");
    Ok(())
}

fn tcp() -> Outcome {
    let (_world, host) = alone()?;
    let echo = echo_server(&host, localhost())?;
    let bytes = vec![7; 300_000];
    let answer = raw::exchange(&host, echo.address(), bytes.clone(), Then::HalfClose, SOON);
    assert!(answer.bytes == bytes && answer.end == End::Closed, "{} {:?}", answer.bytes.len(), answer.end);
    let greeter = greeter(&host, localhost(), "220 hello\r\n")?;
    let answer = raw::exchange(&host, greeter.address(), "", Then::HalfClose, SOON);
    assert_eq!(answer.text(), "220 hello\r\n");
    let nobody = raw::exchange(&host, SocketAddr::from(([127, 0, 0, 1], 9)), "", Then::Read, SOON);
    assert_eq!((nobody.connected, nobody.end), (false, End::Refused));
    Ok(())
}

fn load() -> Outcome {
    let (_world, host) = alone()?;
    let server = http_server(&host, localhost())?;
    let load = Load::new(Request::get(format!("http://{}/", server.address())), 200).connections(2).start(&host);
    let other = Load::new(Request::get(format!("http://{}/status/403", server.address())), 50).start(&host);
    let enough = host.block_on(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..500 {
            tick.tick().await;
            if server.requests() >= 50 {
                return Some(server);
            }
        }
        None
    });
    let server = enough.ok_or("no 50 requests came")?;
    let report = load.stop();
    assert_eq!((report.failed, &report.first_error), (0, &None));
    assert!(report.ok >= 20 && report.percentile(0.5) <= report.percentile(0.99), "{report:?}");
    assert!(server.accepted() <= 6, "connections are kept");
    let report = other.stop();
    assert!(report.ok == 0 && report.failed > 0);
    assert!(report.first_error.is_some_and(|error| error.contains("403")));
    Ok(())
}

fn spans() -> Outcome {
    let world = World::two_sites().build()?;
    let mut receiver = Receiver::new();
    let address = receiver.listen_tcp(world.host("control"), world.host("control").socket(0))?;
    let socket = world.files().join("otel.sock");
    receiver.listen_unix(world.host("control"), &socket)?;
    let web = world.host("web");
    web.block_on(send(format!("http://{address}"), 1))?;
    web.block_on(send(format!("unix:{}", socket.display()), 2))?;
    let trace = receiver.wait_for_trace(&"ab".repeat(16), SOON, |spans| spans.len() == 2)?;
    assert_eq!(trace.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["span 1", "span 2"]);
    assert_eq!(trace[0].duration(), Duration::from_nanos(10));
    assert!(receiver.wait("more", Duration::from_millis(1), |spans| spans.len() > 2).is_err());
    Ok(())
}

async fn send(endpoint: String, number: u64) -> Result<(), tonic::transport::Error> {
    let mut client = TraceServiceClient::connect(endpoint).await?;
    let span = Span {
        trace_id: vec![0xab; 16],
        name: format!("span {number}"),
        start_time_unix_nano: number,
        end_time_unix_nano: number + 10,
        ..Span::default()
    };
    let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let group = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    // A refused export is seen by the caller: its span never arrives.
    let _ = client.export(ExportTraceServiceRequest { resource_spans: vec![group] }).await;
    Ok(())
}
