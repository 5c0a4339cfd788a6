//! Silence of any length: bytes, kept HTTP connections and open streams that say nothing for hours, and then go on where
//! they were. Only the clock is not real.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::world_test::{Spec, VIP, app, world};
use crate::state::AppProtocol;

/// Longer than any limit there is, and than what tells a request that its app is hung (an hour).
const SILENCE: Duration = Duration::from_secs(30 * 3600);
/// The same with a stream open, over which two sidecars ping each other all the time.
const SILENCE_OF_STREAMS: Duration = Duration::from_secs(2 * 3600);

/// Lets time go by at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

async fn said(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, word);
}

#[tokio::test]
async fn a_tunnel_that_is_silent_for_hours_goes_on() {
    LocalSet::new()
        .run_until(async {
            let (port, accepted) = app(|mut stream: TcpStream| async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            })
            .await;
            let world = world(Spec { protocol: AppProtocol::Tcp, ..Spec::http(port) }).await;
            let mut stream = TcpStream::connect(world.capture(VIP).await.0).await.unwrap();
            said(&mut stream, b"before").await;
            pass(SILENCE_OF_STREAMS).await;
            said(&mut stream, b"after").await;
            // One side has ended: the other may be silent as well.
            stream.shutdown().await.unwrap();
            assert_eq!((stream.read(&mut [0; 8]).await.unwrap(), accepted.get()), (0, 1));
        })
        .await;
}

#[tokio::test]
async fn a_kept_http1_connection_is_served_after_more_than_a_day() {
    LocalSet::new()
        .run_until(async {
            let (port, _) = app(super::world_test::mirror).await;
            let world = world(Spec::http(port)).await;
            let (captured, open) = world.capture(VIP).await;
            let mut stream = TcpStream::connect(captured).await.unwrap();
            for _ in 0..2 {
                stream.write_all(b"GET /again HTTP/1.1\r\nHost: o\r\n\r\n").await.unwrap();
                let mut answer = vec![0; 4096];
                let mut length = 0;
                while !answer[..length].windows(10).any(|part| part == b"GET /again") {
                    let count = stream.read(&mut answer[length..]).await.unwrap();
                    assert!(count > 0, "ended after {:?}", String::from_utf8_lossy(&answer[..length]));
                    length += count;
                }
                assert!(answer.starts_with(b"HTTP/1.1 200"));
                pass(SILENCE).await;
            }
            assert_eq!(open.get(), 1);
        })
        .await;
}

#[tokio::test]
async fn an_answer_that_has_begun_may_be_silent_for_hours() {
    LocalSet::new()
        .run_until(async {
            let more = Rc::new(tokio::sync::Notify::new());
            let (given, calls) = (Rc::clone(&more), Rc::new(Cell::new(0)));
            let counted = Rc::clone(&calls);
            let (port, _) = app(move |stream| {
                let (more, calls) = (Rc::clone(&given), Rc::clone(&counted));
                async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        calls.set(calls.get() + 1);
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        send.send_data("before".into(), false).unwrap();
                        let more = Rc::clone(&more);
                        tokio::task::spawn_local(async move {
                            more.notified().await;
                            send.send_data("after".into(), true).unwrap();
                        });
                    }
                }
            })
            .await;
            let world = world(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }).await;
            let stream = TcpStream::connect(world.capture(VIP).await.0).await.unwrap();
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut sender: SendRequest<Bytes> = sender.ready().await.unwrap();
            let request = Request::get("http://orders.shop/events").body(()).unwrap();
            let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "before");
            pass(SILENCE_OF_STREAMS).await;
            more.notify_one();
            assert_eq!(body.data().await.unwrap().unwrap(), "after");
            assert_eq!(calls.get(), 1);
        })
        .await;
}
