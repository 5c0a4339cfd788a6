//! A hostile or broken peer in raw frames: what ends the connection, and with which word; what ends one stream; and what is
//! let pass. Rapid resets: the proxy's `http/abuse_test.rs`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

use super::frame::{self, HEAD, Head, PREFACE, Setting};
use super::{Connection, SendRequest, StreamError, accept, connect};
use crate::Http2Settings;

/// `GET http://o/` in HPACK.
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'o'];
/// `POST http://o/` with `content-length: 3`.
const POST_3: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'o', 0x0f, 0x0d, 1, b'3'];
const STATUS_200: u8 = 0x88;
pub(super) const BOTH: u8 = frame::END_STREAM | frame::END_HEADERS;

pub(super) fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(kind, flags, stream, payload, &mut out);
    out
}

fn greeting() -> Vec<u8> {
    [&PREFACE[..], &bytes(frame::SETTINGS, 0, 0, &[])].concat()
}

pub(super) type Near = BufReader<DuplexStream>;

/// A server of ours whose client is the test.
pub(super) async fn server() -> (Connection<Near>, DuplexStream) {
    let (near, mut far) = duplex(4 << 20);
    far.write_all(&greeting()).await.unwrap();
    (accept(BufReader::new(near), Http2Settings::MESH).await.unwrap(), far)
}

/// A client of ours whose server is the test.
async fn client() -> (SendRequest, Connection<Near>, DuplexStream) {
    let (near, mut far) = duplex(4 << 20);
    far.write_all(&bytes(frame::SETTINGS, 0, 0, &[])).await.unwrap();
    let (sender, connection) = connect(BufReader::new(near), Http2Settings::MESH);
    (sender, connection, far)
}

pub(super) async fn turn(connection: &mut Connection<Near>) -> Poll<Result<(), StreamError>> {
    poll_fn(|cx| Poll::Ready(connection.poll(cx))).await
}

/// What the peer was told, but for greeting and acknowledgements.
async fn told(far: &mut DuplexStream) -> Vec<(u8, u32, u32)> {
    let mut all = Vec::new();
    let mut part = vec![0; 1 << 16];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut part)).await {
        all.extend_from_slice(&part[..count]);
    }
    let mut rest = all.strip_prefix(&PREFACE[..]).unwrap_or(&all);
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::parse(head);
        let (payload, after) = after.split_at(head.length);
        rest = after;
        let code = payload.last_chunk::<4>().map_or(0, |code| u32::from_be_bytes(*code));
        if matches!(head.kind, frame::RST_STREAM | frame::GOAWAY | frame::HEADERS | frame::DATA) {
            frames.push((head.kind, head.stream, code));
        }
    }
    frames
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_with_its_word() {
    let mut unfolded = Vec::new();
    unfolded.extend(bytes(frame::HEADERS, 0, 1, GET));
    (0..40).for_each(|_| unfolded.extend(bytes(frame::CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'])));
    let long = [bytes(frame::HEADERS, 0, 1, GET), bytes(frame::CONTINUATION, 0, 1, &vec![0; 131_072])].concat();
    let get = bytes(frame::HEADERS, BOTH, 1, GET);
    let two = |first: &[u8], second: Vec<u8>| [first, &second].concat();
    let window = |stream, more: u32| bytes(frame::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    let setting = |setting: [u8; 6]| bytes(frame::SETTINGS, 0, 0, &setting);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("a head without end, in pieces", unfolded, Reason::ENHANCE_YOUR_CALM),
        ("a head without end, in large pieces", long, Reason::ENHANCE_YOUR_CALM),
        (
            "something between a head's pieces",
            two(&bytes(frame::HEADERS, 0, 1, GET), bytes(frame::PING, 0, 0, &[0; 8])),
            Reason::PROTOCOL_ERROR,
        ),
        ("a continuation of nothing", bytes(frame::CONTINUATION, 4, 1, GET), Reason::PROTOCOL_ERROR),
        ("a client's stream with a server's number", bytes(frame::HEADERS, BOTH, 2, GET), Reason::PROTOCOL_ERROR),
        ("a head of no stream", bytes(frame::HEADERS, BOTH, 0, GET), Reason::PROTOCOL_ERROR),
        ("data of no stream", bytes(frame::DATA, 0, 0, b"a"), Reason::PROTOCOL_ERROR),
        ("data of a stream to come", bytes(frame::DATA, 0, 5, b"a"), Reason::PROTOCOL_ERROR),
        ("a reset of a stream to come", bytes(frame::RST_STREAM, 0, 5, &[0; 4]), Reason::PROTOCOL_ERROR),
        ("a push", bytes(frame::PUSH_PROMISE, 4, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        ("HPACK that points nowhere", bytes(frame::HEADERS, BOTH, 1, &[0xff, 0x7f]), Reason::COMPRESSION_ERROR),
        ("more than a frame may hold", bytes(frame::DATA, 0, 1, &vec![0; (1 << 20) + 1]), Reason::FRAME_SIZE_ERROR),
        ("a short ping", bytes(frame::PING, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        ("a ping of a stream", bytes(frame::PING, 0, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        ("settings that are no settings", bytes(frame::SETTINGS, 0, 0, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        ("an acknowledgement that says something", bytes(frame::SETTINGS, 1, 0, &[0; 6]), Reason::FRAME_SIZE_ERROR),
        ("frames of 1 byte", setting(Setting::MaxFrame(1).bytes()), Reason::PROTOCOL_ERROR),
        ("windows of 2^31", setting([0, 4, 0x80, 0, 0, 0]), Reason::FLOW_CONTROL_ERROR),
        ("no more window", window(0, 0), Reason::PROTOCOL_ERROR),
        ("too much window", two(&window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)), Reason::FLOW_CONTROL_ERROR),
        ("padding without its length", two(&get, bytes(frame::DATA, frame::PADDED, 1, &[])), Reason::FRAME_SIZE_ERROR),
        (
            "more padding than frame",
            two(&bytes(frame::HEADERS, 4, 1, GET), bytes(frame::DATA, frame::PADDED, 1, &[9, 0])),
            Reason::PROTOCOL_ERROR,
        ),
        ("a goaway cut off", bytes(frame::GOAWAY, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
    ];
    for (name, flood, reason) in cases {
        let (mut connection, mut far) = server().await;
        far.write_all(&flood).await.unwrap();
        let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("{name}: it goes on") };
        assert_eq!((error.reason(), error.is_remote()), (Some(reason), false), "{name}");
        let said = told(&mut far).await;
        assert!(said.contains(&(frame::GOAWAY, 0, u32::from(reason))), "{name}: {said:?}");
    }
}

#[tokio::test]
async fn what_breaks_one_message_ends_its_stream_alone() {
    let with = |more: &[u8]| bytes(frame::HEADERS, BOTH, 1, &[GET, more].concat());
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("a name in capitals", with(&[0, 1, b'A', 1, b'b']), Reason::PROTOCOL_ERROR),
        (
            "a connection's own header",
            with(&[0, 10, b'c', b'o', b'n', b'n', b'e', b'c', b't', b'i', b'o', b'n', 1, b'b']),
            Reason::PROTOCOL_ERROR,
        ),
        ("a pseudo-header after others", with(&[0, 1, b'a', 1, b'b', 0x84]), Reason::PROTOCOL_ERROR),
        ("a pseudo-header twice", with(&[0x84]), Reason::PROTOCOL_ERROR),
        ("a status in a request", with(&[STATUS_200]), Reason::PROTOCOL_ERROR),
        ("no path", bytes(frame::HEADERS, BOTH, 1, &GET[..2]), Reason::PROTOCOL_ERROR),
        (
            "a path that is none",
            bytes(frame::HEADERS, BOTH, 1, &[0x82, 0x86, 0x04, 1, b'x', 0x41, 1, b'o']),
            Reason::PROTOCOL_ERROR,
        ),
        ("no body where three bytes are promised", bytes(frame::HEADERS, BOTH, 1, POST_3), Reason::PROTOCOL_ERROR),
        (
            "too short a body",
            [bytes(frame::HEADERS, 4, 1, POST_3), bytes(frame::DATA, 1, 1, b"ab")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "too long a body",
            [bytes(frame::HEADERS, 4, 1, POST_3), bytes(frame::DATA, 1, 1, b"abcd")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "trailers that do not end it",
            [bytes(frame::HEADERS, 4, 1, GET), bytes(frame::HEADERS, 4, 1, &[])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "data after its end",
            [bytes(frame::HEADERS, BOTH, 1, GET), bytes(frame::DATA, 0, 1, b"a")].concat(),
            Reason::STREAM_CLOSED,
        ),
        (
            "a window of nothing",
            [bytes(frame::HEADERS, 4, 1, GET), bytes(frame::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
    ];
    for (name, broken, reason) in cases {
        let (mut connection, mut far) = server().await;
        far.write_all(&broken).await.unwrap();
        assert!(turn(&mut connection).await.is_pending(), "{name}");
        assert!(told(&mut far).await.contains(&(frame::RST_STREAM, 1, u32::from(reason))), "{name}");
        // The next one is served.
        far.write_all(&bytes(frame::HEADERS, BOTH, 3, GET)).await.unwrap();
        let mut last = 0;
        while last != 3 {
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            last = respond.stream_id();
            let _ = respond.send_response(Response::new(()), true);
        }
    }
}

#[tokio::test]
async fn a_head_that_unfolds_beyond_the_bound_costs_its_own_stream() {
    let (mut connection, mut far) = server().await;
    let mut block = GET.to_vec();
    // Into the dynamic table: `a` and 3,000 bytes (127 + 2873 as an HPACK integer); then named a thousand times.
    block.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xb9, 0x16]);
    block.extend_from_slice(&[b'x'; 3_000]);
    block.extend_from_slice(&[0xbe; 1_000]);
    far.write_all(&bytes(frame::HEADERS, BOTH, 1, &block)).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    let calm = u32::from(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(told(&mut far).await, [(frame::RST_STREAM, 1, calm)]);
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused_and_those_within_it_served() {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(&greeting()).await.unwrap();
    let settings = Http2Settings { max_streams: 2, ..Http2Settings::MESH };
    let mut connection = accept(BufReader::new(near), settings).await.unwrap();
    for stream in [1, 3, 5] {
        far.write_all(&bytes(frame::HEADERS, BOTH, stream, GET)).await.unwrap();
    }
    let first = connection.accept().await.unwrap().unwrap();
    let _second = connection.accept().await.unwrap().unwrap();
    assert!(turn(&mut connection).await.is_pending());
    let refused = u32::from(Reason::REFUSED_STREAM);
    assert_eq!(told(&mut far).await, [(frame::RST_STREAM, 5, refused)]);
    drop(first);
    far.write_all(&bytes(frame::HEADERS, BOTH, 7, GET)).await.unwrap();
    let (_, respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(respond.stream_id(), 7);
}

#[tokio::test]
async fn who_does_not_read_the_answers_is_not_read() {
    for flood in [bytes(frame::PING, 0, 0, &[1; 8]), bytes(frame::SETTINGS, 0, 0, &[])] {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(&greeting()).await.unwrap();
        let mut connection = accept(BufReader::new(near), Http2Settings::MESH).await.unwrap();
        let (mut sent, mut stuck) = (0usize, 0);
        while stuck < 3 {
            let wrote = poll_fn(|cx| {
                let wrote = tokio::io::AsyncWrite::poll_write(Pin::new(&mut far), cx, &flood.repeat(1_000));
                Poll::Ready(wrote)
            });
            match wrote.await {
                Poll::Ready(wrote) => (sent, stuck) = (sent + wrote.unwrap(), 0),
                Poll::Pending => stuck += 1,
            }
            assert!(turn(&mut connection).await.is_pending());
            assert!(sent < 4 << 20, "it takes them for ever");
        }
    }
}

#[tokio::test]
async fn more_than_the_window_ends_what_overruns_it() {
    let (near, mut far) = duplex(1 << 20);
    far.write_all(&greeting()).await.unwrap();
    let settings = Http2Settings { stream_window: 65_535, connection_window: 100_000, ..Http2Settings::MESH };
    let mut connection = accept(BufReader::new(near), settings).await.unwrap();
    far.write_all(&bytes(frame::HEADERS, 4, 1, GET)).await.unwrap();
    far.write_all(&bytes(frame::DATA, 0, 1, &vec![0; 65_535])).await.unwrap();
    let held = connection.accept().await.unwrap().unwrap();
    far.write_all(&bytes(frame::DATA, 0, 1, b"a")).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    let overrun = u32::from(Reason::FLOW_CONTROL_ERROR);
    assert_eq!(told(&mut far).await, [(frame::RST_STREAM, 1, overrun)]);
    far.write_all(&bytes(frame::HEADERS, 4, 3, GET)).await.unwrap();
    far.write_all(&bytes(frame::DATA, 0, 3, &vec![0; 40_000])).await.unwrap();
    let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("it takes more than it offered") };
    assert_eq!(error.reason(), Some(Reason::FLOW_CONTROL_ERROR));
    drop(held);
}

/// What the peer says of streams that have ended for us was on its way.
#[tokio::test]
async fn late_frames_are_let_pass_and_their_bytes_are_offered_anew() {
    let (sender, mut connection, mut far) = client().await;
    let request = || Request::get("http://o/").body(()).unwrap();
    drop(sender.send_request(request(), true).unwrap());
    assert!(turn(&mut connection).await.is_pending());
    let cancelled = u32::from(Reason::CANCEL);
    assert_eq!(told(&mut far).await.last(), Some(&(frame::RST_STREAM, 1, cancelled)));
    far.write_all(&bytes(frame::HEADERS, 4, 1, &[STATUS_200])).await.unwrap();
    // More than the connection's window, all in all.
    for _ in 0..40 {
        far.write_all(&bytes(frame::DATA, 0, 1, &vec![0; 1 << 20])).await.unwrap();
        assert!(turn(&mut connection).await.is_pending());
    }
    far.write_all(&bytes(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.unwrap();
    far.write_all(&bytes(frame::RST_STREAM, 0, 1, &[0; 4])).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    drop(sender.send_request(request(), true).unwrap());
}

/// A client's side of the rules.
#[tokio::test]
async fn a_server_that_breaks_the_rules_is_left() {
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("an answer to no request", bytes(frame::HEADERS, BOTH, 9, &[STATUS_200]), true),
        ("an answer on a stream of its own", bytes(frame::HEADERS, BOTH, 2, &[STATUS_200]), true),
        ("a server that pushes", bytes(frame::SETTINGS, 0, 0, &Setting::EnablePush(true).bytes()), true),
        ("data before its head", bytes(frame::DATA, 0, 1, b"a"), false),
        ("an answer without a status", bytes(frame::HEADERS, BOTH, 1, &[]), false),
        ("an interim answer that ends", bytes(frame::HEADERS, BOTH, 1, &[8, 3, b'1', b'0', b'3']), false),
        ("101, which HTTP/2 does not know", bytes(frame::HEADERS, 4, 1, &[8, 3, b'1', b'0', b'1']), false),
    ];
    for (name, answer, ends) in cases {
        let (sender, mut connection, mut far) = client().await;
        let (answering, _stream) = sender.send_request(Request::get("http://o/").body(()).unwrap(), true).unwrap();
        assert!(turn(&mut connection).await.is_pending());
        far.write_all(&answer).await.unwrap();
        assert_eq!(turn(&mut connection).await.is_ready(), ends, "{name}");
        let error = answering.await.expect_err(name);
        assert_eq!((error.reason(), error.is_go_away()), (Some(Reason::PROTOCOL_ERROR), ends), "{name}");
    }
}

/// Nothing that a peer can say makes a sender send more than it may, or the rest get lost.
#[tokio::test]
async fn what_the_windows_do_not_take_waits() {
    let (sender, mut connection, mut far) = client().await;
    far.write_all(&bytes(frame::SETTINGS, 0, 0, &Setting::StreamWindow(10).bytes())).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    let request = Request::post("http://o/").body(()).unwrap();
    let (_answering, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(b"0123456789abcdef"), true).unwrap();
    assert!(turn(&mut connection).await.is_pending());
    told(&mut far).await;
    assert!(
        poll_fn(|cx| Poll::Ready(stream.poll_room(cx))).await.is_ready(),
        "it has ended: there is no room to wait for"
    );
    // Less than nothing: a smaller window counts for what was sent already.
    far.write_all(&bytes(frame::SETTINGS, 0, 0, &Setting::StreamWindow(4).bytes())).await.unwrap();
    far.write_all(&bytes(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 6])).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    assert_eq!(told(&mut far).await, []);
    far.write_all(&bytes(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 6])).await.unwrap();
    assert!(turn(&mut connection).await.is_pending());
    assert_eq!(told(&mut far).await, [(frame::DATA, 1, u32::from_be_bytes(*b"cdef"))]);
}
