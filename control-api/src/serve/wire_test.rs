//! Our end against the h2 crate's client, which is what tonic's and so our proxies' have, and against raw frames.

use super::*;
use futures::future::join_all;
use h2::client;
use http_body_util::{BodyExt as _, StreamBody};
use isthmus_http2::frame::{self, CONTINUATION, END_HEADERS, GOAWAY, HEAD, HEADERS, Head, PREFACE};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response};
use tonic::codegen::{Bytes, Service};
use tonic::server::NamedService;

const SOON: Duration = Duration::from_secs(60);
const PIECE: usize = 16 << 10;

/// Services as the router takes them.
#[derive(Clone, Default)]
struct Told {
    /// Pieces of an answer without end that were taken.
    taken: Arc<AtomicUsize>,
    /// Ends the answers that last until it is cancelled.
    last: CancellationToken,
    /// Calls that are not answered.
    asked: Arc<AtomicUsize>,
}

impl NamedService for Told {
    const NAME: &'static str = "test.Told";
}

fn ok() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))])
}

impl Service<Request<Body>> for Told {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            assert!(request.extensions().get::<Peer>().is_some(), "services look for it");
            let path = request.uri().path().to_owned();
            Ok(Response::new(match path.as_str() {
                "/test.Told/Echo" => Body::new(request.into_body().with_trailers(async { Some(Ok(ok())) })),
                "/test.Told/Endless" => Body::new(StreamBody::new(futures::stream::repeat_with(move || {
                    this.taken.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![7; PIECE])))
                }))),
                "/test.Told/Lasts" => {
                    let first = async { Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"first"))) };
                    let end = async move {
                        this.last.cancelled().await;
                        Ok(http_body::Frame::trailers(ok()))
                    };
                    let (first, end) = (futures::stream::once(first), futures::stream::once(end));
                    Body::new(StreamBody::new(Box::pin(first.chain(end))))
                }
                _ => {
                    this.asked.fetch_add(1, Ordering::Relaxed);
                    let _asked = Asked(this.asked);
                    std::future::pending().await
                }
            }))
        })
    }
}

/// A call that waits for its answer.
struct Asked(Arc<AtomicUsize>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct World {
    told: Told,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    serving: JoinHandle<()>,
}

/// One connection that is served, and its other end.
fn world() -> (World, DuplexStream) {
    let (near, far) = duplex(64 << 10);
    let (told, shutdown, tasks) = (Told::default(), CancellationToken::new(), TaskTracker::new());
    let routes = Routes::new(told.clone()).prepare();
    let peer = Peer { address: ([127, 0, 0, 1], 1).into(), identity: None };
    let serving = serve_one(BufReader::new(near), peer, routes, tasks.clone(), shutdown.clone());
    (World { told, shutdown, tasks, serving: tokio::spawn(serving) }, far)
}

impl World {
    /// Everything that the connection has begun comes to its end.
    async fn ended(self) {
        self.tasks.close();
        timeout(SOON * 10, async {
            self.serving.await.unwrap();
            self.tasks.wait().await;
        })
        .await
        .expect("an end");
    }
}

fn request(method: &str) -> Request<()> {
    Request::post(format!("http://control/test.Told/{method}")).body(()).unwrap()
}

type Sender = client::SendRequest<Bytes>;

async fn connected(far: DuplexStream) -> Sender {
    let (sender, connection) = client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(far)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

/// Says `bytes` and takes the answer, both a window at a time.
async fn echo(sender: Sender, bytes: Bytes) -> Result<(Bytes, HeaderMap), h2::Error> {
    let (answer, mut up) = sender.ready().await?.send_request(request("Echo"), false)?;
    let said = bytes.clone();
    let saying = async move {
        let mut rest = said;
        while !rest.is_empty() {
            up.reserve_capacity(rest.len());
            // Why it goes no further is in the answer.
            let Some(Ok(room)) = poll_fn(|cx| up.poll_capacity(cx)).await else { return };
            let _ = up.send_data(rest.split_to(room.min(rest.len())), false);
        }
        let _ = up.send_data(Bytes::new(), true);
    };
    let hearing = async move {
        let mut body = answer.await?.into_body();
        let mut came = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            came.extend_from_slice(&piece);
        }
        Ok((Bytes::from(came), body.trailers().await?.unwrap_or_default()))
    };
    let ((), heard) = timeout(SOON, futures::future::join(saying, hearing)).await.expect("an answer");
    heard
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_and_all_are_answered() {
    let (world, far) = world();
    let sender = connected(far).await;
    let calls = (0..500u32).map(|number| {
        let sender = sender.clone();
        async move {
            let said = Bytes::from(number.to_string());
            let (heard, trailers) = echo(sender, said.clone()).await.unwrap();
            assert_eq!((heard, trailers), (said, ok()));
        }
    });
    join_all(calls).await;
    drop(sender);
    world.ended().await;
}

#[tokio::test]
async fn a_hello_of_four_mebibytes_comes_through_small_windows() {
    let (_world, far) = world();
    let said: Bytes = (0..4 << 20).map(|place: u32| (place / 251) as u8).collect::<Vec<_>>().into();
    let (heard, trailers) = echo(connected(far).await, said.clone()).await.unwrap();
    assert!(heard == said && trailers == ok());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_speak_after_tls_is_ended() {
    let (world, _far) = world();
    let began = Instant::now();
    world.ended().await;
    assert_eq!(began.elapsed().as_secs(), GREETING_WITHIN.as_secs());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_who_does_not_speak() {
    let (world, _far) = world();
    world.shutdown.cancel();
    timeout(GREETING_WITHIN / 2, world.ended()).await.expect("at once");
}

fn greeting() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    frame::write(frame::SETTINGS, 0, 0, &[], &mut bytes);
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_is_found_in_time() {
    let (world, mut far) = world();
    far.write_all(&greeting()).await.unwrap();
    let began = Instant::now();
    world.ended().await;
    // Whoever comes in its place is told that it is let go within 30 s.
    assert_eq!(began.elapsed().as_secs(), (PING_EVERY + PONG_WITHIN).as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_that_answers_stays() {
    let (world, far) = world();
    let sender = connected(far).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(!world.serving.is_finished());
    let (heard, _) = echo(sender, Bytes::from_static(b"still")).await.unwrap();
    assert_eq!(heard, "still");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_held_back_and_ended() {
    let (world, far) = world();
    let client =
        client::Builder::new().initial_window_size(1 << 30).initial_connection_window_size(1 << 30).handshake(far);
    let (mut sender, connection): (Sender, _) = client.await.unwrap();
    let mut connection = Box::pin(connection);
    let (answer, _up) = sender.send_request(request("Endless"), true).unwrap();
    tokio::select! {
        answer = answer => assert!(answer.is_ok()),
        _ = connection.as_mut() => unreachable!(),
    }
    // From here on nobody polls the client's connection.
    let (began, taken) = (Instant::now(), world.told.taken.clone());
    world.ended().await;
    assert!(began.elapsed() <= MOVES_FOR + PING_EVERY + PONG_WITHIN, "{:?}", began.elapsed());
    let taken = taken.load(Ordering::Relaxed) * PIECE;
    assert!(taken <= 1 << 20, "{taken} bytes were taken for a peer that reads nothing");
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let (world, far) = world();
    let mut sender = connected(far).await;
    let (answer, _up) = sender.send_request(request("Endless"), true).unwrap();
    let mut unread = timeout(SOON, answer).await.unwrap().unwrap().into_body();
    for number in 0..50u32 {
        let said = Bytes::from(vec![number as u8; 10_000]);
        assert_eq!(echo(sender.clone(), said.clone()).await.unwrap().0, said);
    }
    // The stream's window, a piece that waits, and no more.
    let taken = world.told.taken.load(Ordering::Relaxed) * PIECE;
    assert!(taken <= (1 << 20) + 2 * PIECE, "{taken}");
    assert!(unread.data().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_end() {
    let (world, far) = world();
    let mut sender = connected(far).await;
    let (answer, _up) = sender.send_request(request("Lasts"), true).unwrap();
    let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    world.shutdown.cancel();
    // GOAWAY: nothing new is begun.
    timeout(SOON, async { while echo(sender.clone(), Bytes::from_static(b"new")).await.is_ok() {} }).await.unwrap();
    assert!(!world.serving.is_finished(), "its stream goes on");
    world.told.last.cancel();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap(), Some(ok()));
    world.ended().await;
}

async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, holds).await.expect("in time");
}

#[tokio::test]
async fn a_call_ends_when_its_caller_gives_up_or_is_gone() {
    let (world, far) = world();
    let sender = connected(far).await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(sender.clone().ready().await.unwrap().send_request(request("Never"), true).unwrap());
    }
    let asked = &world.told.asked;
    until(|| asked.load(Ordering::Relaxed) == 8).await;
    calls.drain(..4).for_each(|(_, mut up)| up.send_reset(h2::Reason::CANCEL));
    until(|| asked.load(Ordering::Relaxed) == 4).await;
    world.serving.abort();
    until(|| asked.load(Ordering::Relaxed) == 0).await;
    world.tasks.close();
    timeout(SOON, world.tasks.wait()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_has_the_time_that_its_caller_gives_it() {
    let (_world, far) = world();
    let mut sender = connected(far).await;
    let mut timed = request("Never");
    timed.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1500m"));
    let began = Instant::now();
    let answer = sender.send_request(timed, true).unwrap().0.await.unwrap();
    assert_eq!(began.elapsed().as_millis() / 100, 15);
    assert_eq!(answer.headers()["grpc-status"], "1");
    let unknown = Request::post("http://control/test.Nobody/Call").body(()).unwrap();
    let answer = sender.send_request(unknown, true).unwrap().0.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn a_head_that_is_too_large_costs_its_own_call_alone() {
    let (_world, far) = world();
    let mut sender = connected(far).await;
    let mut bomb = request("Echo");
    bomb.headers_mut().insert("x-bomb", HeaderValue::from_str(&"b".repeat(20 << 10)).unwrap());
    let refused = timeout(SOON, sender.send_request(bomb, true).unwrap().0).await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    assert_eq!(echo(sender, Bytes::from_static(b"mine")).await.unwrap().0, "mine");
}

/// The reason of the GOAWAY that the connection ends with.
async fn last_word(mut far: DuplexStream) -> Option<u32> {
    let mut bytes = Vec::new();
    timeout(SOON, far.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let mut rest = &bytes[..];
    let mut word = None;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::parse(head);
        let (payload, after) = after.split_at(head.length);
        if head.kind == GOAWAY {
            word = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = after;
    }
    word
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let (world, mut far) = world();
    let mut bytes = greeting();
    frame::write(HEADERS, 0, 1, &[0x82], &mut bytes);
    // As much as no head may have, in pieces: `x: aaa…` that never ends.
    let mut piece = vec![0x40, 1, b'x', 0x7f, 0x80, 0x7e];
    piece.resize(PIECE, b'a');
    (0..3).for_each(|_| frame::write(CONTINUATION, 0, 1, &piece, &mut bytes));
    far.write_all(&bytes).await.unwrap();
    assert_eq!(last_word(far).await, Some(u32::from(h2::Reason::ENHANCE_YOUR_CALM)));
    world.ended().await;
}

#[tokio::test]
async fn calls_that_are_given_up_at_once_again_and_again_end_the_connection() {
    let (world, mut far) = world();
    let mut bytes = greeting();
    for number in 0..100u32 {
        let id = 2 * number + 1;
        frame::write(HEADERS, END_HEADERS, id, &[0x83, 0x86, 0x84, 0x41, 1, b'o'], &mut bytes);
        frame::write(frame::RST_STREAM, 0, id, &8u32.to_be_bytes(), &mut bytes);
    }
    far.write_all(&bytes).await.unwrap();
    assert_eq!(last_word(far).await, Some(u32::from(h2::Reason::ENHANCE_YOUR_CALM)));
    world.ended().await;
}

#[test]
fn an_idle_connection_and_an_idle_call_are_small() {
    fn of<S, F>(_: fn(S, Peer, Routes, TaskTracker, CancellationToken) -> F) -> usize {
        size_of::<F>()
    }
    fn of_call<F>(_: fn(Routes, Peer, Request<RecvStream>, SendResponse) -> F) -> usize {
        size_of::<F>()
    }
    let (connection, call) = (of(serve_one::<Connection>), of_call(call::answer));
    assert!(connection <= 1_152, "{connection} bytes");
    assert!(call <= 896, "{call} bytes");
}
