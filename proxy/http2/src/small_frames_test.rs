//! Floods whose every frame is allowed: what many small ones cost is bounded by what they carry, or by their number.

use std::future::poll_fn;
use std::task::Poll;

use h2::Reason;
use tokio::io::AsyncWriteExt;

use super::flood_test::{BOTH, GET, bytes, server, turn};
use super::frame::{self, END_HEADERS, Setting};

#[tokio::test]
async fn data_in_frames_of_one_byte_is_kept_in_few_pieces() {
    const COUNT: usize = 100_000;
    let (mut connection, mut far) = server().await;
    far.write_all(&bytes(frame::HEADERS, END_HEADERS, 1, GET)).await.unwrap();
    let all: Vec<u8> = (0..COUNT).map(|place| place as u8).collect();
    let frames: Vec<u8> = all.iter().flat_map(|byte| bytes(frame::DATA, 0, 1, &[*byte])).collect();
    far.write_all(&frames).await.unwrap();
    let (request, _respond) = connection.accept().await.unwrap().unwrap();
    assert!(turn(&mut connection).await.is_pending());
    let mut body = request.into_body();
    let (mut read, mut pieces) = (Vec::new(), 0);
    while let Poll::Ready(piece) = poll_fn(|cx| Poll::Ready(body.poll_data(cx))).await {
        read.extend_from_slice(&piece.unwrap().unwrap());
        pieces += 1;
    }
    assert_eq!(read, all);
    assert!(pieces <= COUNT / (16 * 1024) + 2, "{pieces}");
}

#[tokio::test]
async fn data_without_data_is_taken_a_thousand_times_in_a_row() {
    let (mut connection, mut far) = server().await;
    far.write_all(&bytes(frame::HEADERS, END_HEADERS, 1, GET)).await.unwrap();
    let empty = bytes(frame::DATA, 0, 1, &[]);
    far.write_all(&empty.repeat(1_000)).await.unwrap();
    far.write_all(&bytes(frame::DATA, 0, 1, b"a")).await.unwrap();
    far.write_all(&empty.repeat(1_000)).await.unwrap();
    let _held = connection.accept().await.unwrap().unwrap();
    assert!(turn(&mut connection).await.is_pending());
    far.write_all(&empty).await.unwrap();
    let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("it takes them for ever") };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn settings_that_say_the_same_thing_often_are_one_change_or_too_many() {
    let (mut connection, mut far) = server().await;
    let window = |size: u32| Setting::StreamWindow(size).bytes();
    // Only the last one counts, so that none in between overflows a stream that has used its window.
    let few = [window(1), window((1 << 31) - 1), window(70_000)].concat();
    far.write_all(&bytes(frame::SETTINGS, 0, 0, &few)).await.unwrap();
    far.write_all(&bytes(frame::HEADERS, BOTH, 1, GET)).await.unwrap();
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
    let Poll::Ready(Ok(room)) = poll_fn(|cx| Poll::Ready(stream.poll_room(cx))).await else { panic!("no room") };
    assert_eq!(room, 65_535, "the connection's own");
    far.write_all(&bytes(frame::SETTINGS, 0, 0, &window(1).repeat(129))).await.unwrap();
    let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("it takes any number") };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn windows_that_change_all_the_time_end_the_connection() {
    let (mut connection, mut far) = server().await;
    for size in 0..1_001u32 {
        let setting = Setting::StreamWindow(100_000 + size % 2).bytes();
        far.write_all(&bytes(frame::SETTINGS, 0, 0, &setting)).await.unwrap();
    }
    let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("it takes any number") };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

/// CVE-2025-8671: a peer that makes us reset its streams gets work done that counts as none.
#[tokio::test]
async fn streams_that_the_peer_has_us_reset_are_counted() {
    let (mut connection, mut far) = server().await;
    let nothing = |stream| bytes(frame::WINDOW_UPDATE, 0, stream, &[0; 4]);
    let mut served = Vec::new();
    for stream in (1..).step_by(2).take(1_024) {
        far.write_all(&bytes(frame::HEADERS, BOTH, stream, GET)).await.unwrap();
        served.push(connection.accept().await.unwrap().unwrap());
        far.write_all(&nothing(stream)).await.unwrap();
        assert!(turn(&mut connection).await.is_pending(), "at {stream}");
    }
    far.write_all(&bytes(frame::HEADERS, BOTH, 2_049, GET)).await.unwrap();
    served.push(connection.accept().await.unwrap().unwrap());
    far.write_all(&nothing(2_049)).await.unwrap();
    let Poll::Ready(Err(error)) = turn(&mut connection).await else { panic!("it resets for ever") };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}
