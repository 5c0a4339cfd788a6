//! Two ends of ours: order, ends, back-pressure, tunnels, and streams that another thread holds.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::io::{BufReader, DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::{Connection, RecvStream, SendRequest, SendResponse, SendStream, StreamError, accept, connect};
use crate::Http2Settings;

type Driving = JoinHandle<Result<(), StreamError>>;

/// A client whose connection is driven, and the server's.
async fn pair(settings: Http2Settings) -> (SendRequest, Driving, Connection<BufReader<DuplexStream>>) {
    let (near, far) = duplex(1 << 20);
    let (sender, mut wire) = connect(BufReader::new(near), Http2Settings::MESH);
    let driving = spawn_local(async move { poll_fn(|cx| wire.poll(cx)).await });
    (sender, driving, accept(BufReader::new(far), settings).await.unwrap())
}

type Came = (Request<RecvStream>, SendResponse);

/// Drives the server while something else happens, and keeps what comes.
async fn while_serving<T>(
    server: &mut Connection<BufReader<DuplexStream>>,
    work: impl Future<Output = T>,
) -> (T, Vec<Came>) {
    let mut came = Vec::new();
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (done, came),
            stream = server.accept() => came.push(stream.unwrap().unwrap()),
        }
    }
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn room(stream: &mut SendStream) -> Result<usize, StreamError> {
    poll_fn(|cx| stream.poll_room(cx)).await
}

fn get() -> Request<()> {
    Request::get("http://orders.shop/a").body(()).unwrap()
}

async fn on_worker(test: impl Future<Output = ()>) {
    let limited = tokio::time::timeout(Duration::from_secs(60), test);
    LocalSet::new().run_until(limited).await.unwrap();
}

#[tokio::test]
async fn a_tunnel_carries_its_first_bytes_with_its_head() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings::MESH).await;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from_static("10.0.0.1:5432");
        let (answering, mut up) = sender.send_request(request, false).unwrap();
        up.send_data(Bytes::from_static(b"first"), false).unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "10.0.0.1:5432".to_owned()));
        let mut body = request.into_body();
        // It was there when the head was.
        assert!(poll_fn(|cx| Poll::Ready(body.poll_data(cx))).await.is_ready());
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        down.send_data(Bytes::from_static(b"second"), true).unwrap();
        let (answer, _) = while_serving(&mut server, answering).await;
        let mut body = answer.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "second");
        assert!(body.data().await.is_none() && body.is_end_stream());
        // One direction has ended, the other goes on.
        assert!(room(&mut up).await.unwrap() > 0);
    })
    .await;
}

#[tokio::test]
async fn extended_connect_interim_answers_and_trailers_pass() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings::MESH).await;
        let mut request = get();
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (mut answering, _up) = sender.send_request(request, false).unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
        assert_eq!(request.uri().path(), "/a");
        for _ in 0..100 {
            let interim = Response::builder().status(103).header("link", "a").body(()).unwrap();
            respond.send_informational(interim).unwrap();
        }
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        let trailers: HeaderMap = [("x-sum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
        down.send_trailers(trailers.clone()).unwrap();
        let (head, _) = while_serving(&mut server, poll_fn(|cx| answering.poll_head(cx))).await;
        let mut interim = 0;
        assert_eq!(head.as_ref().unwrap().status(), StatusCode::OK);
        let mut body = head.unwrap().into_body();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap(), Some(trailers));

        let (mut answering, _up) = sender.send_request(get(), true).unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        for _ in 0..100 {
            respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
        }
        let _ = while_serving(&mut server, settle()).await;
        while poll_fn(|cx| Poll::Ready(answering.poll_interim(cx))).await.is_ready() {
            interim += 1;
        }
        assert_eq!(interim, 16, "a talkative app is not listened to for ever");
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_the_peers_bound_wait_and_are_sent_in_order() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings { max_streams: 2, ..Http2Settings::MESH }).await;
        let _ = while_serving(&mut server, settle()).await;
        assert_eq!(sender.most_streams(), 2);
        let mut calls: Vec<_> = (0..5)
            .map(|number| {
                let request = Request::post(format!("http://o/{number}")).body(()).unwrap();
                let (answering, mut stream) = sender.send_request(request, false).unwrap();
                stream.send_data(Bytes::from(vec![number; 3]), true).unwrap();
                (answering, stream)
            })
            .collect();
        let ((), mut came) = while_serving(&mut server, settle()).await;
        assert_eq!(came.len(), 2, "no more at once");
        drop(calls.remove(3));
        let mut paths = Vec::new();
        while !came.is_empty() {
            for (request, mut respond) in came.drain(..) {
                paths.push(request.uri().path().to_owned());
                assert_eq!(request.into_body().data().await.unwrap().unwrap().len(), 3);
                respond.send_response(Response::new(()), true).unwrap();
            }
            came = while_serving(&mut server, settle()).await.1;
        }
        assert_eq!(paths, ["/0", "/1", "/2", "/4"], "one was given up before it was sent");
        for (answering, _) in calls {
            assert_eq!(answering.await.unwrap().status(), StatusCode::OK);
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer_and_nobody_else() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings::MESH).await;
        let (_slow, mut up) = sender.send_request(Request::post("http://o/").body(()).unwrap(), false).unwrap();
        let writing = async {
            let mut sent = 0usize;
            while let Ok(room) = tokio::time::timeout(Duration::from_millis(300), room(&mut up)).await {
                let piece = Bytes::from(vec![0; room.unwrap().min(1 << 16)]);
                sent += piece.len();
                up.send_data(piece, false).unwrap();
            }
            sent
        };
        let (sent, came) = while_serving(&mut server, writing).await;
        assert_eq!(sent, Http2Settings::MESH.stream_window as usize);
        // Another stream is served meanwhile.
        let (answering, _) = sender.send_request(get(), true).unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        assert!(while_serving(&mut server, answering).await.0.is_ok());
        // Now it reads.
        let mut body = came.into_iter().next().unwrap().0.into_body();
        let reading = async {
            let mut read = 0;
            while read < sent {
                let piece = body.data().await.unwrap().unwrap();
                read += piece.len();
                body.release(piece.len());
            }
            room(&mut up).await.unwrap()
        };
        assert!(while_serving(&mut server, reading).await.0 > 0);
    })
    .await;
}

#[tokio::test]
async fn a_drained_connection_finishes_what_it_took_and_says_what_it_did_not() {
    on_worker(async {
        let (sender, driving, mut server) = pair(Http2Settings::MESH).await;
        let (first, _up) = sender.send_request(get(), true).unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        server.drain();
        // Crosses the GOAWAY on the wire: it is taken.
        let (crossing, _up) = sender.send_request(get(), true).unwrap();
        let ((), came) = while_serving(&mut server, settle()).await;
        assert_eq!(came.len(), 1);
        assert!(!sender.is_alive());
        let refused = sender.send_request(get(), true).unwrap_err();
        assert!(refused.is_go_away() && refused.is_remote());
        respond.send_response(Response::new(()), true).unwrap();
        for (_, mut respond) in came {
            respond.send_response(Response::new(()), true).unwrap();
        }
        assert!(server.accept().await.is_none(), "it ends when its streams have");
        assert!(first.await.is_ok() && crossing.await.is_ok());
        driving.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_server_that_goes_at_once_tells_which_requests_it_never_saw() {
    on_worker(async {
        let (near, mut far) = duplex(1 << 16);
        let (sender, mut wire) = connect(BufReader::new(near), Http2Settings::MESH);
        let (seen, _a) = sender.send_request(get(), true).unwrap();
        let (unseen, _b) = sender.send_request(get(), true).unwrap();
        let goaway = super::flood_test::bytes(super::frame::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        tokio::io::AsyncWriteExt::write_all(&mut far, &goaway).await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(wire.poll(cx))).await.is_pending());
        let error = unseen.await.unwrap_err();
        assert!(error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR), "{error}");
        drop(far);
        assert!(poll_fn(|cx| wire.poll(cx)).await.is_err(), "one was under way");
        assert!(matches!(seen.await.unwrap_err(), StreamError::Io(_)));
    })
    .await;
}

#[tokio::test]
async fn resets_carry_their_reason_and_what_came_before_is_read() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings::MESH).await;
        let (answering, mut up) = sender.send_request(Request::post("http://o/").body(()).unwrap(), false).unwrap();
        let (_request, mut respond) = server.accept().await.unwrap().unwrap();
        let mut down = respond.send_response(Response::new(()), false).unwrap();
        down.send_data(Bytes::from_static(b"a part"), false).unwrap();
        down.send_reset(Reason::INTERNAL_ERROR);
        let (answer, _) = while_serving(&mut server, answering).await;
        let mut body = answer.unwrap().into_body();
        let _ = while_serving(&mut server, settle()).await;
        assert_eq!(body.data().await.unwrap().unwrap(), "a part");
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!((error.reason(), error.is_remote()), (Some(Reason::INTERNAL_ERROR), true));
        assert_eq!(poll_fn(|cx| up.poll_reset(cx)).await.unwrap(), Reason::INTERNAL_ERROR);
        assert!(room(&mut up).await.is_err());

        // A caller that goes away ends the work.
        drop(sender.send_request(get(), true).unwrap());
        let ((), came) = while_serving(&mut server, settle()).await;
        assert!(came.is_empty(), "it was given up before anybody looked at it");
        let call = sender.send_request(get(), true).unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        drop(call);
        let (reason, _) = while_serving(&mut server, poll_fn(|cx| respond.poll_reset(cx))).await;
        assert_eq!(reason.unwrap(), Reason::CANCEL);
    })
    .await;
}

#[tokio::test]
async fn pings_are_answered_and_windows_grow() {
    on_worker(async {
        let (near, far) = duplex(1 << 20);
        let (sender, mut wire) = connect(BufReader::new(near), Http2Settings::MESH);
        let pings = wire.pings();
        let serving = spawn_local(async move {
            let mut server = accept(BufReader::new(far), Http2Settings::MESH).await.unwrap();
            server.grow(8 << 20, 32 << 20);
            let (request, respond) = server.accept().await.unwrap().unwrap();
            while server.accept().await.is_some() {}
            drop((request, respond));
        });
        assert!(pings.send() && !pings.send(), "one at a time");
        let driving = spawn_local(async move { poll_fn(|cx| wire.poll(cx)).await });
        while !pings.take_answer() {
            tokio::task::yield_now().await;
        }
        let (_answering, mut up) = sender.send_request(Request::post("http://o/").body(()).unwrap(), false).unwrap();
        let mut sent = 0usize;
        while let Ok(room) = tokio::time::timeout(Duration::from_millis(300), room(&mut up)).await {
            let piece = Bytes::from(vec![0; room.unwrap()]);
            sent += piece.len();
            up.send_data(piece, false).unwrap();
        }
        assert_eq!(sent, 8 << 20);
        drop((up, _answering, sender));
        driving.await.unwrap().unwrap();
        serving.await.unwrap();
    })
    .await;
}

/// A worker without a connection of its own sends through another's.
#[tokio::test]
async fn another_threads_streams_pass_through_this_threads_connection() {
    on_worker(async {
        let (sender, _driving, mut server) = pair(Http2Settings::MESH).await;
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        for number in 0..200u32 {
                            let request = Request::post("http://o/").body(()).unwrap();
                            let (answering, mut up) = sender.send_request(request, false).unwrap();
                            up.send_data(Bytes::from(number.to_be_bytes().to_vec()), true).unwrap();
                            let mut body = answering.await.unwrap().into_body();
                            assert_eq!(body.data().await.unwrap().unwrap(), number.to_be_bytes()[..]);
                        }
                    });
                })
            })
            .collect();
        spawn_local(async move {
            while let Some(Ok((request, mut respond))) = server.accept().await {
                spawn_local(async move {
                    let piece = request.into_body().data().await.unwrap().unwrap();
                    let mut down = respond.send_response(Response::new(()), false).unwrap();
                    down.send_data(piece, true).unwrap();
                });
            }
        });
        while threads.iter().any(|thread| !thread.is_finished()) {
            tokio::task::yield_now().await;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    })
    .await;
}

#[test]
fn what_is_held_for_an_idle_connection_is_small() {
    let (connection, stream) = (size_of::<super::state::Shared>(), size_of::<super::stream::Stream>());
    assert!(connection <= 896, "{connection}");
    assert!(stream <= 384, "{stream}");
}
