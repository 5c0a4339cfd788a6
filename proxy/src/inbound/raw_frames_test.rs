//! A mesh peer with a good certificate and bad intentions, frame by frame over real mesh TLS. Whatever it sends: memory
//! and work stay bounded, no app is reached that should not be, and other peers are served as before.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use isthmus_certs::{ExpectedPeer, IdentityStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::hostile_test::{dial, send};
use super::world_test::{OWN, Spec, World, app, id, identity, mirror, on_worker, publish_inbound, store, world};
use crate::http::abuse_test::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame,
};
use crate::tls;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a peer may get rid of that reads nothing: the buffers of two sockets, and what one connection may hold.
const MOST_UNREAD: usize = 64 << 20;

type Raw = TlsStream<tls::Stamped>;

/// A connection that is past its handshake and has sent its preface.
async fn raw(world: &World) -> Raw {
    raw_as(world, &world.web).await
}

async fn raw_as(world: &World, who: &Arc<IdentityStore>) -> Raw {
    let stream = TcpStream::connect(world.mesh).await.unwrap();
    let config = who.client_config(&[tls::mesh::ALPN], ExpectedPeer::AnyOf(vec![id("orders")]));
    let connected = tls::connect(stream, world.mesh.ip(), config, tls::mesh::HANDSHAKE_DEADLINE).await;
    let (mut stream, ..) = connected.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// A request to `port` of the app, in HPACK without compression. `POST`: its body follows.
fn head(method: u8, port: u16) -> Vec<u8> {
    // `:method`, `:scheme http`, `:path /`, `:authority o`.
    let mut block = vec![method, 0x86, 0x84, 0x41, 1, b'o'];
    let port = port.to_string();
    block.extend_from_slice(&[0, 12]);
    block.extend_from_slice(b"isthmus-port");
    block.push(u8::try_from(port.len()).unwrap());
    block.extend_from_slice(port.as_bytes());
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// How the connection ended: the code of its GOAWAY; or `None`, without one.
async fn end(stream: &mut Raw) -> Option<u32> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    read.expect("the connection ends").ok();
    let mut rest = &all[..];
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == GOAWAY && rest.len() >= 17 {
            return Some(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
        }
        rest = &rest[(9 + length).min(rest.len())..];
    }
    None
}

/// Reads until the echo of a PING with these bytes: everything before it was dealt with. `false`: the connection ended.
async fn answers_ping(stream: &mut Raw) -> bool {
    let ping = *b"are you?";
    let sent = async {
        stream.write_all(&frame(PING, 0, 0, &ping)).await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return false;
    }
    let (mut seen, mut part) = (Vec::new(), [0; 4 * 1024]);
    loop {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => seen.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => return false,
        }
        if seen.windows(8).any(|window| window == ping) {
            return true;
        }
    }
}

/// Somebody else calls the same workload.
async fn others_are_served(world: &World, port: u16) {
    let mut peer = dial(world, &world.web).await.unwrap();
    let response = send(&mut peer, Request::get("http://o/").header("isthmus-port", port)).await.unwrap();
    assert_eq!(response.status(), 200);
}

async fn world_and_app() -> (World, u16, Rc<Cell<usize>>) {
    let (port, accepted) = app(mirror).await;
    (world(Spec::http(port)).await, port, accepted)
}

/// CVE-2023-44487: what was begun is ended at once, and what the flood costs the app is bounded.
#[tokio::test]
async fn rapid_resets_cost_the_app_little_and_others_nothing() {
    on_worker(Box::pin(async {
        let (world, port, accepted) = world_and_app().await;
        let mut stream = raw(&world).await;
        let mut flood = Vec::new();
        for number in 0..20_000u32 {
            flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &head(GET, port)));
            flood.extend(frame(RST_STREAM, 0, number * 2 + 1, &8u32.to_be_bytes()));
        }
        let _ = stream.write_all(&flood).await;
        let alive = answers_ping(&mut stream).await;
        assert!(accepted.get() < 2_000, "{} connections to the app for 20,000 resets ({alive})", accepted.get());
        others_are_served(&world, port).await;
    }))
    .await;
}

/// CVE-2024-27316: a head without end, in small pieces; and one in no pieces at all.
#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    on_worker(Box::pin(async {
        let (world, port, accepted) = world_and_app().await;
        let literal = [0, 1, b'a', 1, b'b'].repeat(100);
        for piece in [&literal[..], &[]] {
            let mut stream = raw(&world).await;
            stream.write_all(&frame(HEADERS, END_STREAM, 1, &head(GET, port))).await.unwrap();
            let block = frame(CONTINUATION, 0, 1, piece).repeat(100);
            let mut sent = 0;
            while stream.write_all(&block).await.is_ok() {
                sent += block.len();
                assert!(sent < MOST_UNREAD, "it takes them for ever");
            }
        }
        assert_eq!(accepted.get(), 0);
        others_are_served(&world, port).await;
    }))
    .await;
}

/// A block of 4 KB that unfolds into a head of 3 MB.
#[tokio::test]
async fn a_head_that_unfolds_beyond_the_bound_reaches_nobody() {
    on_worker(Box::pin(async {
        let (world, port, accepted) = world_and_app().await;
        let mut stream = raw(&world).await;
        let mut block = head(GET, port);
        // Into the dynamic table: `a: ` and 3,000 bytes (127 + 2873 as an HPACK integer); then named a thousand times.
        block.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xb9, 0x16]);
        block.extend_from_slice(&[b'x'; 3_000]);
        block.extend_from_slice(&[0xbe; 1_000]);
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
        answers_ping(&mut stream).await;
        assert_eq!(accepted.get(), 0);
        others_are_served(&world, port).await;
    }))
    .await;
}

/// Indexes that are in no table, integers without end, names that are none: the decoder's state is lost with any of them.
#[tokio::test]
async fn a_block_that_is_no_hpack_ends_the_connection_or_its_stream() {
    on_worker(Box::pin(async {
        let (world, port, accepted) = world_and_app().await;
        let wrong: [&[u8]; 8] = [
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x80],
            &[0xbe],
            &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0, 0x7f],
            &[0, 1, b'A', 1, b'b'],
            &[0, 3, b'a', b'\n', b'b', 1, b'c'],
            &[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in wrong {
            let mut stream = raw(&world).await;
            let block = [&head(GET, port)[..], bytes].concat();
            stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
            answers_ping(&mut stream).await;
            assert_eq!(accepted.get(), 0, "{bytes:x?}");
        }
        others_are_served(&world, port).await;
    }))
    .await;
}

/// Who sends and does not read is not read any more, instead of being kept answers for.
#[tokio::test]
async fn what_a_peer_that_does_not_read_sends_stays_in_its_own_socket() {
    on_worker(Box::pin(async {
        let (world, port, _) = world_and_app().await;
        for flood in [frame(PING, 0, 0, &[1; 8]), frame(SETTINGS, 0, 0, &[])] {
            let mut stream = raw(&world).await;
            let block = flood.repeat(4_096);
            let mut sent = 0usize;
            // Stuck, or closed: both are an end.
            while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&block)).await {
                sent += block.len();
                assert!(sent < MOST_UNREAD, "it takes them for ever");
            }
        }
        others_are_served(&world, port).await;
    }))
    .await;
}

/// Windows that overflow or do not grow, and data beyond them (RFC 9113 §6.9).
#[tokio::test]
async fn windows_are_kept_to() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(|stream| async move {
            let _unread = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let world = world(Spec::http(port)).await;
        const MOST: u32 = 0x7fff_ffff;
        // What goes wrong for the whole connection.
        let setting = [&[0, 4][..], &0x8000_0000u32.to_be_bytes()].concat();
        let fatal = [
            frame(WINDOW_UPDATE, 0, 0, &MOST.to_be_bytes()),
            frame(WINDOW_UPDATE, 0, 0, &0u32.to_be_bytes()),
            frame(SETTINGS, 0, 0, &setting),
        ];
        for bytes in fatal {
            let mut stream = raw(&world).await;
            stream.write_all(&bytes).await.unwrap();
            stream.flush().await.unwrap();
            let code = end(&mut stream).await;
            // PROTOCOL_ERROR or FLOW_CONTROL_ERROR, or a reset that overtook it.
            assert!(matches!(code, Some(1 | 3) | None), "{code:?} for {bytes:x?}");
        }
        assert_eq!(accepted.get(), 0);
        // Data that no window allows: the connection's, 16 MiB, is the larger one.
        let mut stream = raw(&world).await;
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &head(POST, port))).await.unwrap();
        let piece = frame(DATA, 0, 1, &[0; 4 * 1024]).repeat(16);
        let mut sent = 0usize;
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&piece)).await {
            sent += piece.len();
            // Its stream is reset, or the connection ends; what belongs to no stream any more is not held.
            if sent > MOST_UNREAD {
                break;
            }
        }
        assert!(accepted.get() <= 1, "its one request, if that was looked at before the rest of it");
        let mut peer = dial(&world, &world.web).await.unwrap();
        let response = send(&mut peer, Request::get("http://o/").header("isthmus-port", "0")).await.unwrap();
        assert_eq!(response.status(), 400, "others are heard");
    }))
    .await;
}

/// Frames where none of their kind may be (RFC 9113 §5.1, §6): the connection, or the stream, ends; no app learns of it.
#[tokio::test]
async fn frames_out_of_place_reach_nobody() {
    on_worker(Box::pin(async {
        let (world, port, accepted) = world_and_app().await;
        let get = head(GET, port);
        let even = frame(HEADERS, END_STREAM | END_HEADERS, 2, &get);
        let wrong: [(&str, Vec<u8>); 9] = [
            ("data on no stream", frame(DATA, 0, 0, b"x")),
            ("data on an idle stream", frame(DATA, 0, 5, b"x")),
            ("headers on no stream", frame(HEADERS, END_STREAM | END_HEADERS, 0, &get)),
            ("a stream of our side", even),
            ("a reset of nothing", frame(RST_STREAM, 0, 7, &8u32.to_be_bytes())),
            ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &get)),
            ("a push of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
            ("a ping of five bytes", frame(PING, 0, 0, b"short")),
            ("a frame beyond any size", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 64]].concat()),
        ];
        for (what, bytes) in wrong {
            let mut stream = raw(&world).await;
            stream.write_all(&bytes).await.unwrap();
            assert!(!answers_ping(&mut stream).await, "{what}: the connection goes on");
        }
        // Not understood is not wrong (RFC 9113 §4.1, §5.5).
        let mut stream = raw(&world).await;
        stream.write_all(&frame(0xfa, 0xff, 9, b"from the future")).await.unwrap();
        stream.write_all(&frame(PRIORITY, 0, 11, &[0, 0, 0, 0, 1])).await.unwrap();
        assert!(answers_ping(&mut stream).await);
        assert_eq!(accepted.get(), 0);
        others_are_served(&world, port).await;
    }))
    .await;
}

/// More streams at once than were granted.
#[tokio::test]
async fn streams_beyond_the_granted_number_are_refused() {
    on_worker(Box::pin(async {
        let (port, accepted) = app(|stream| async move {
            let _unanswered = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let world = world(Spec::http(port)).await;
        let mut stream = raw(&world).await;
        // Each asks for a port that is none: nothing but the streams themselves is taken.
        let (granted, asked) = (isthmus_http2::Http2Settings::MESH.max_streams, 12_000);
        let mut flood = Vec::new();
        for number in 0..asked {
            // A body is to follow: the stream stays open.
            flood.extend(frame(HEADERS, END_HEADERS, number * 2 + 1, &head(POST, 15_001)));
        }
        let _ = stream.write_all(&flood).await;
        answers_ping(&mut stream).await;
        assert!(granted < asked && accepted.get() == 0);
        others_are_served_by_refusal(&world).await;
    }))
    .await;
}

async fn others_are_served_by_refusal(world: &World) {
    let mut peer = dial(world, &world.web).await.unwrap();
    let response = send(&mut peer, Request::get("http://o/").header("isthmus-port", "15001")).await.unwrap();
    assert_eq!(response.status(), 403);
}

/// Reads frames until one of this kind; its stream and its payload.
async fn frame_of(stream: &mut Raw, kind: u8) -> (u32, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == kind {
            return (u32::from_be_bytes(head[5..9].try_into().unwrap()), payload);
        }
        if head[3] == PING && head[4] & ACK == 0 {
            stream.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn with_the_callers_certificate_new_streams_end_and_open_ones_go_on_for_as_long_as_the_mesh_allows() {
    on_worker(Box::pin(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.unwrap();
            }
        })
        .await;
        let world = world(Spec::http(port)).await;
        let brief = store(&world.ca, &id("web"));
        brief.replace(identity(&world.ca, &id("web"), Duration::from_secs(2))).unwrap();
        let mut stream = raw_as(&world, &brief).await;
        // CONNECT: a method that is in no table, and an authority.
        let authority = format!("{OWN}:{port}");
        let mut block = vec![0x02, 7];
        block.extend_from_slice(b"CONNECT");
        block.extend_from_slice(&[0x01, u8::try_from(authority.len()).unwrap()]);
        block.extend_from_slice(authority.as_bytes());
        stream.write_all(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(frame_of(&mut stream, HEADERS).await.0, 1, "the tunnel is answered");
        // GOAWAY without an error, and no sooner than the certificate ends.
        let end = brief.current().unwrap().not_after.as_secs();
        let (_, goaway) = frame_of(&mut stream, GOAWAY).await;
        assert_eq!(&goaway[4..8], &[0; 4], "{goaway:?}");
        assert!(brief.now().as_secs() > end);
        stream.write_all(&frame(DATA, 0, 1, b"x")).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(frame_of(&mut stream, DATA).await, (1, b"x".to_vec()));
        publish_inbound(&world.orders.state, 2, &Spec { max_stream_age: Duration::ZERO, ..Spec::http(port) });
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection and its streams ended");
        assert!(world.orders.metrics.render().contains("{event=\"outlived-certificate\"} 1\n"));
    }))
    .await;
}
