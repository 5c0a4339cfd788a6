//! A mesh connection in memory, both ends of it: what HTTP/2 alone costs, without sockets, TLS, policy and tasks. The same
//! talk over the h2 crate stands beside it.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use isthmus_http2::{Http2Settings, RecvStream, SendStream};
use tokio::io::{BufReader, DuplexStream, duplex};

const BULK: usize = 256 * 1024;
/// More than one call's bytes: nothing waits for the pipe.
const PIPE: usize = 4 << 20;
/// As the tunnel reads and gives on.
const READ: usize = 256 * 1024;

/// What W2's sidecars say: the path and the two numbers are new each time.
fn request(number: u64) -> Request<()> {
    let request = Request::get(format!("http://orders.shop.svc/v1/orders/{number}"));
    let mut request = request.body(()).expect("a request");
    *request.headers_mut() = fields(&[
        ("user-agent", "load/1.0"),
        ("accept", "*/*"),
        ("x-request-id", &format!("{number:016x}")),
        ("isthmus-port", "8080"),
    ]);
    request
}

fn response(number: u64) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = fields(&[
        ("content-type", "text/plain"),
        ("content-length", "128"),
        ("server", "app"),
        ("date", "Sun, 22 Nov 2026 09:00:00 GMT"),
        ("isthmus-elapsed", &format!("{number},17")),
    ]);
    response
}

fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    fields.iter().map(field).collect()
}

/// Polls until it is ready: everything it waits for is in this thread, and moved by `others`.
fn drive<T>(mut ours: impl FnMut(&mut Context<'_>) -> Poll<T>, mut others: impl FnMut(&mut Context<'_>)) -> T {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(value) = ours(&mut context) {
            return value;
        }
        others(&mut context);
    }
    panic!("it does not move");
}

type Wire = isthmus_http2::Connection<BufReader<DuplexStream>>;

fn pair() -> (isthmus_http2::SendRequest, Wire, Wire) {
    let (near, far) = duplex(PIPE);
    let reader = |io| BufReader::with_capacity(16 * 1024, io);
    let (sender, mut client) = isthmus_http2::connect(reader(near), Http2Settings::MESH);
    let mut accepting = pin!(isthmus_http2::accept(reader(far), Http2Settings::MESH));
    let server = drive(|cx| accepting.as_mut().poll(cx), |cx| assert!(client.poll(cx).is_pending()));
    (sender, client, server.expect("a connection"))
}

pub(crate) fn exchange() -> Box<dyn FnMut(u64)> {
    let (sender, mut client, mut server) = pair();
    let body = Bytes::from_static(&[b'b'; 128]);
    Box::new(move |number| {
        let (mut answering, _) = sender.send_request(request(number), true).expect("room for a stream");
        let accepted = drive(|cx| server.poll_accept(cx), |cx| assert!(client.poll(cx).is_pending()));
        let (asked, mut respond) = accepted.expect("a stream").expect("a request");
        black_box(&asked);
        let mut stream = respond.send_response(response(number), false).expect("an answer");
        stream.send_data(body.clone(), true).expect("a body");
        let mut both = |cx: &mut Context<'_>| {
            assert!(server.poll_accept(cx).is_pending());
            assert!(client.poll(cx).is_pending());
        };
        let answer = drive(|cx| answering.poll_head(cx), &mut both).expect("an answer");
        let mut body = answer.into_body();
        while let Some(piece) = drive(|cx| body.poll_taken(cx), &mut both) {
            black_box(piece.expect("a piece"));
        }
    })
}

/// A stream of the caller's, open both ways, and its other end.
fn tunnel(sender: &isthmus_http2::SendRequest, client: &mut Wire, server: &mut Wire) -> (SendStream, RecvStream) {
    let mut request = Request::new(());
    *request.method_mut() = http::Method::CONNECT;
    *request.uri_mut() = "10.0.0.1:80".parse().expect("an address");
    let (answering, to) = sender.send_request(request, false).expect("room for a stream");
    let accepted = drive(|cx| server.poll_accept(cx), |cx| assert!(client.poll(cx).is_pending()));
    let (asked, respond) = accepted.expect("a stream").expect("a request");
    // Held for the whole run.
    std::mem::forget((answering, respond));
    (to, asked.into_body())
}

pub(crate) fn bulk() -> Box<dyn FnMut(u64)> {
    let (sender, mut client, mut server) = pair();
    let (mut to, mut from) = tunnel(&sender, &mut client, &mut server);
    let bytes = Bytes::from(vec![b'b'; READ]);
    Box::new(move |_| {
        let _ = &sender;
        to.send_data(bytes.clone(), false).expect("an open stream");
        let mut came = 0;
        while came < BULK {
            let piece = drive(
                |cx| from.poll_taken(cx),
                |cx| {
                    assert!(client.poll(cx).is_pending());
                    assert!(server.poll(cx).is_pending());
                },
            );
            came += piece.expect("it goes on").expect("a piece").len();
        }
    })
}

type H2Client = h2::client::Connection<DuplexStream, Bytes>;
type H2Server = h2::server::Connection<DuplexStream, Bytes>;

fn h2_pair() -> (h2::client::SendRequest<Bytes>, H2Client, H2Server) {
    let (near, far) = duplex(PIPE);
    let mut connecting = pin!(Http2Settings::MESH.client().handshake::<_, Bytes>(near));
    let mut accepting = pin!(Http2Settings::MESH.server().handshake::<_, Bytes>(far));
    let connected = drive(|cx| connecting.as_mut().poll(cx), |_| {});
    let (sender, mut client) = connected.expect("a connection");
    let server = drive(|cx| accepting.as_mut().poll(cx), |cx| assert!(pin!(&mut client).poll(cx).is_pending()));
    (sender, client, server.expect("a connection"))
}

pub(crate) fn h2_exchange() -> Box<dyn FnMut(u64)> {
    let (mut sender, mut client, mut server) = h2_pair();
    let body = Bytes::from_static(&[b'b'; 128]);
    Box::new(move |number| {
        let (mut answering, _) = sender.send_request(request(number), true).expect("room for a stream");
        let accepted = drive(|cx| server.poll_accept(cx), |cx| assert!(pin!(&mut client).poll(cx).is_pending()));
        let (asked, mut respond) = accepted.expect("a stream").expect("a request");
        black_box(&asked);
        let mut stream = respond.send_response(response(number), false).expect("an answer");
        stream.send_data(body.clone(), true).expect("a body");
        let mut both = |cx: &mut Context<'_>| {
            assert!(server.poll_accept(cx).is_pending());
            assert!(pin!(&mut client).poll(cx).is_pending());
        };
        let answer = drive(|cx| pin!(&mut answering).poll(cx), &mut both).expect("an answer");
        let mut body = answer.into_body();
        while let Some(piece) = drive(|cx| body.poll_data(cx), &mut both) {
            let piece = piece.expect("a piece");
            body.flow_control().release_capacity(piece.len()).expect("what came");
            black_box(piece);
        }
    })
}

pub(crate) fn h2_bulk() -> Box<dyn FnMut(u64)> {
    let (mut sender, mut client, mut server) = h2_pair();
    let mut request = Request::new(());
    *request.method_mut() = http::Method::CONNECT;
    *request.uri_mut() = "10.0.0.1:80".parse().expect("an address");
    let (answering, mut to) = sender.send_request(request, false).expect("room for a stream");
    let accepted = drive(|cx| server.poll_accept(cx), |cx| assert!(pin!(&mut client).poll(cx).is_pending()));
    let (asked, respond) = accepted.expect("a stream").expect("a request");
    std::mem::forget((answering, respond));
    let mut from = asked.into_body();
    let bytes = Bytes::from(vec![b'b'; READ]);
    Box::new(move |_| {
        to.send_data(bytes.clone(), false).expect("an open stream");
        let mut came = 0;
        while came < BULK {
            let piece = drive(
                |cx| from.poll_data(cx),
                |cx| {
                    assert!(pin!(&mut client).poll(cx).is_pending());
                    assert!(server.poll_accept(cx).is_pending());
                },
            );
            let piece = piece.expect("it goes on").expect("a piece");
            came += piece.len();
            from.flow_control().release_capacity(piece.len()).expect("what came");
        }
    })
}
