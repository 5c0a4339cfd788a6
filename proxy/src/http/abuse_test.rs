//! Floods in raw HTTP/2 frames, against the server that apps and sidecars reach. Each ends with the connection, or waits in
//! the sender's own socket; none reaches an app.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use isthmus_http2::Http2Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::server::serve_http2;
use super::{Answer, Asked};

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// `GET http://o/` in HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'o'];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A connection whose server never answers; how many requests reached the handler.
async fn silent() -> (TcpStream, Rc<Cell<usize>>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let asked = Rc::new(Cell::new(0));
    let counted = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        let handle = async move |_: Asked<'_>| -> Answer {
            counted.set(counted.get() + 1);
            std::future::pending().await
        };
        let _ = serve_http2(server, stopped, handle).await;
    });
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    (client, asked, stop)
}

/// The code of the GOAWAY that ends the connection.
async fn goaway(client: &mut TcpStream) -> Option<u32> {
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all).await;
    let mut rest = &all[..];
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == GOAWAY {
            return Some(u32::from_be_bytes(rest[13..17].try_into().unwrap()));
        }
        rest = &rest[(9 + length).min(rest.len())..];
    }
    None
}

async fn on_worker(test: impl Future<Output = ()>) {
    let limited = tokio::time::timeout(Duration::from_secs(60), test);
    tokio::task::LocalSet::new().run_until(limited).await.unwrap();
}

/// CVE-2023-44487.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    on_worker(async {
        let (mut client, asked, _stop) = silent().await;
        let mut flood = Vec::new();
        for stream in 0..5_000u32 {
            flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, GET));
            flood.extend(frame(RST_STREAM, 0, stream * 2 + 1, &8u32.to_be_bytes()));
        }
        let _ = client.write_all(&flood).await;
        let code = goaway(&mut client).await;
        assert!(matches!(code, Some(11) | None), "ENHANCE_YOUR_CALM, or a reset that overtook it: {code:?}");
        assert!(asked.get() < 1_000, "{} of 5,000 reached the app's side", asked.get());
    })
    .await;
}

/// A mesh connection carries many apps' calls. One that gives up two hundred of them at once, before any was looked at,
/// must not end the others'; thousands are a flood there as well.
#[tokio::test]
async fn calls_given_up_do_not_end_a_mesh_connection_and_a_flood_does() {
    for (given_up, survives) in [(200, true), (5_000, false)] {
        on_worker(async {
            let (near, mut client) = tokio::io::duplex(1 << 20);
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, &[]));
            for stream in 0..given_up {
                bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream * 2 + 1, GET));
                bytes.extend(frame(RST_STREAM, 0, stream * 2 + 1, &8u32.to_be_bytes()));
            }
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, given_up * 2 + 1, GET));
            // All of it is there before the server looks once.
            client.write_all(&bytes).await.unwrap();
            let mut server = isthmus_http2::accept(BufReader::new(near), Http2Settings::MESH).await.unwrap();
            let mut last = None;
            while let Some(Ok((request, respond))) = server.accept().await {
                last = Some(respond.stream_id());
                drop((request, respond));
                if last == Some(given_up * 2 + 1) {
                    break;
                }
            }
            assert_eq!(last == Some(given_up * 2 + 1), survives, "{given_up} given up, last seen {last:?}");
        })
        .await;
    }
}

/// CVE-2024-27316: a head without end, in small pieces.
#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    on_worker(async {
        let (mut client, asked, _stop) = silent().await;
        client.write_all(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
        // A literal field without indexing, 1 byte each for name and value.
        let piece = frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b'].repeat(100));
        let mut sent = 0;
        while client.write_all(&piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < 64 << 20, "it takes them for ever");
        }
        assert_eq!(asked.get(), 0);
    })
    .await;
}

/// A small block of bytes that unfolds into a head of megabytes.
#[tokio::test]
async fn a_head_that_unfolds_beyond_the_bound_reaches_nobody() {
    on_worker(async {
        let (mut client, asked, _stop) = silent().await;
        let mut block = GET.to_vec();
        // Into the dynamic table: `a: ` and 3,000 bytes (127 + 2873 as an HPACK integer); then named a thousand times.
        block.extend_from_slice(&[0x40, 1, b'a', 0x7f, 0xb9, 0x16]);
        block.extend_from_slice(&[b'x'; 3_000]);
        block.extend_from_slice(&[0xbe; 1_000]);
        client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await.unwrap();
        // Its answer, or its end: whichever, the next frame shows that the first was dealt with.
        let _ = client.write_all(&frame(PING, 0, 0, &[7; 8])).await;
        let mut seen = Vec::new();
        let mut part = [0; 4096];
        while !seen.windows(8).any(|window| window == [7; 8]) {
            match client.read(&mut part).await {
                Ok(count @ 1..) => seen.extend_from_slice(&part[..count]),
                Ok(0) | Err(_) => break,
            }
        }
        assert_eq!(asked.get(), 0);
    })
    .await;
}

/// Who sends and does not read is not read any more, instead of being kept answers for.
#[tokio::test]
async fn pings_and_settings_of_a_peer_that_does_not_read_stay_in_its_own_socket() {
    on_worker(async {
        for flood in [frame(PING, 0, 0, &[1; 8]), frame(SETTINGS, 0, 0, &[])] {
            let (mut client, _, _stop) = silent().await;
            let block = flood.repeat(4_096);
            let mut sent = 0usize;
            // Stuck, or closed: both are an end. Socket buffers hold a few megabytes on either side.
            while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), client.write_all(&block)).await {
                sent += block.len();
                assert!(sent < 64 << 20, "it takes them for ever");
            }
        }
    })
    .await;
}
