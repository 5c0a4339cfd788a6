//! Both roles against the h2 crate: any sequence of heads, bodies and trailers arrives as it was sent, in both directions,
//! whatever the windows, the frames and the pieces in which the transport gives them.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use proptest::prelude::*;
use tokio::io::{BufReader, duplex};
use tokio::task::{LocalSet, spawn_local};

use super::{RecvStream, SendStream, accept, connect};
use crate::Http2Settings;

/// One message in either direction.
#[derive(Debug, Clone)]
struct Said {
    headers: Vec<(String, String)>,
    body: Vec<usize>,
    trailers: Vec<(String, String)>,
}

impl Said {
    fn fields(fields: &[(String, String)]) -> HeaderMap {
        let field = |(name, value): &(String, String)| -> (HeaderName, HeaderValue) {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn ends_with_head(&self) -> bool {
        self.body.is_empty() && self.trailers.is_empty()
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.body.iter().enumerate().map(|(place, length)| Bytes::from(vec![place as u8; *length]))
    }

    fn whole(&self) -> Vec<u8> {
        self.pieces().flatten().collect()
    }
}

fn said() -> impl Strategy<Value = Said> {
    let fields =
        || proptest::collection::vec(("x-[a-d]", "[ -~]{0,3}").prop_map(|(n, v)| (n, v.trim().to_owned())), 0..4);
    let body = proptest::collection::vec(prop_oneof![0usize..3, 1usize..2_000, 60_000usize..200_000], 0..4);
    (fields(), body, fields()).prop_map(|(headers, body, trailers)| Said { headers, body, trailers })
}

fn small() -> Http2Settings {
    Http2Settings { stream_window: 65_535, connection_window: 70_000, max_frame: 16_384, ..Http2Settings::MESH }
}

type Came = (HeaderMap, Vec<u8>, HeaderMap);

fn expected(said: &Said) -> Came {
    (Said::fields(&said.headers), said.whole(), Said::fields(&said.trailers))
}

async fn say(mut stream: SendStream, said: &Said) {
    for piece in said.pieces() {
        let mut rest = piece;
        while !rest.is_empty() {
            let room = std::future::poll_fn(|cx| stream.poll_room(cx)).await.unwrap();
            stream.send_data(rest.split_to(room.min(rest.len())), false).unwrap();
        }
    }
    match said.trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true).unwrap(),
        false => stream.send_trailers(Said::fields(&said.trailers)).unwrap(),
    }
}

async fn hear(mut stream: RecvStream) -> (Vec<u8>, HeaderMap) {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.release(piece.len());
        body.extend_from_slice(&piece);
    }
    (body, stream.trailers().await.unwrap().unwrap_or_default())
}

/// The same with the h2 crate's halves, which keep what the windows do not take.
fn theirs_say(mut stream: h2::SendStream<Bytes>, said: &Said) {
    said.pieces().for_each(|piece| stream.send_data(piece, false).unwrap());
    match said.trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true).unwrap(),
        false => stream.send_trailers(Said::fields(&said.trailers)).unwrap(),
    }
}

async fn theirs_hear(mut stream: h2::RecvStream) -> (Vec<u8>, HeaderMap) {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        body.extend_from_slice(&piece);
    }
    (body, stream.trailers().await.unwrap().unwrap_or_default())
}

fn request(said: &Said, number: usize) -> Request<()> {
    let mut request = Request::post(format!("http://orders.shop/{number}?q=1")).body(()).unwrap();
    *request.headers_mut() = Said::fields(&said.headers);
    request
}

fn response(said: &Said) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = Said::fields(&said.headers);
    response
}

fn number(path: &str) -> usize {
    path.trim_start_matches('/').parse().unwrap()
}

/// We ask, h2 answers.
async fn ours_asks(talk: &Rc<Vec<(Said, Said)>>, pipe: usize) {
    let (near, far) = duplex(pipe);
    let (sender, mut wire) = connect(BufReader::with_capacity(777, near), small());
    let driving = spawn_local(async move { std::future::poll_fn(|cx| wire.poll(cx)).await });
    let answers = Rc::clone(talk);
    let serving = spawn_local(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let answers = Rc::clone(&answers);
            spawn_local(async move {
                let (asked, answer) = &answers[number(request.uri().path())];
                let headers = request.headers().clone();
                let (body, trailers) = theirs_hear(request.into_body()).await;
                assert_eq!((headers, body, trailers), expected(asked));
                let stream = respond.send_response(response(answer), answer.ends_with_head()).unwrap();
                if !answer.ends_with_head() {
                    theirs_say(stream, answer);
                }
            });
        }
    });
    let calls = talk.iter().enumerate().map(|(number, (asked, answer))| {
        let (answering, stream) = sender.send_request(request(asked, number), asked.ends_with_head()).unwrap();
        async move {
            let saying = async {
                if !asked.ends_with_head() {
                    say(stream, asked).await;
                }
            };
            let hearing = async {
                let (head, stream) = answering.await.unwrap().into_parts();
                let (body, trailers) = hear(stream).await;
                assert_eq!((head.headers, body, trailers), expected(answer));
            };
            futures::join!(saying, hearing);
        }
    });
    join_all(calls).await;
    drop(sender);
    assert!(driving.await.unwrap().is_ok(), "the connection ends in order when nobody holds it");
    serving.await.unwrap();
}

/// h2 asks, we answer.
async fn ours_answers(talk: &Rc<Vec<(Said, Said)>>, pipe: usize) {
    let (near, far) = duplex(pipe);
    let answers = Rc::clone(talk);
    let serving = spawn_local(async move {
        let mut server = accept(BufReader::with_capacity(777, near), small()).await.unwrap();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let answers = Rc::clone(&answers);
            spawn_local(async move {
                let (asked, answer) = &answers[number(request.uri().path())];
                assert_eq!(request.uri().query(), Some("q=1"));
                let headers = request.headers().clone();
                let (body, trailers) = hear(request.into_body()).await;
                assert_eq!((headers, body, trailers), expected(asked));
                let stream = respond.send_response(response(answer), answer.ends_with_head()).unwrap();
                if !answer.ends_with_head() {
                    say(stream, answer).await;
                }
            });
        }
    });
    let (sender, wire) = h2::client::handshake(far).await.unwrap();
    let driving = spawn_local(wire);
    let mut sender = sender.ready().await.unwrap();
    let calls: Vec<_> = (0..talk.len())
        .map(|number| {
            let (asked, answer) = &talk[number];
            let (answering, stream) = sender.send_request(request(asked, number), asked.ends_with_head()).unwrap();
            if !asked.ends_with_head() {
                theirs_say(stream, asked);
            }
            async move {
                let (head, stream) = answering.await.unwrap().into_parts();
                let (body, trailers) = theirs_hear(stream).await;
                assert_eq!((head.headers, body, trailers), expected(answer));
            }
        })
        .collect();
    join_all(calls).await;
    drop(sender);
    driving.await.unwrap().unwrap();
    serving.await.unwrap();
}

fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("it ends in time") };
    LocalSet::new().block_on(&runtime, limited);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_talk_survives_when_we_ask(talk in proptest::collection::vec((said(), said()), 1..12), pipe in 64usize..70_000) {
        on_worker(ours_asks(&Rc::new(talk), pipe));
    }

    #[test]
    fn every_talk_survives_when_we_answer(talk in proptest::collection::vec((said(), said()), 1..12), pipe in 64usize..70_000) {
        on_worker(ours_answers(&Rc::new(talk), pipe));
    }
}
