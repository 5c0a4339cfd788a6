//! Any request, and any answer to it, survives the pair unchanged in meaning: method, target, host, fields with their
//! order, body and trailers. Only what RFC 9110 §7.6.1 calls hop-by-hop is gone. The apps' ends are read by a parser of
//! the tests' own (HTTP/1) and by the h2 crate, and not by what is tested.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::message_test::{Exchange, Fields, Framing, Message, assert_same, exchanges, read, write};
use super::world_test::{Spec, VIP, app, on_worker, world};
use crate::state::AppProtocol;

/// What the app got, and what it has to answer.
type Script = Rc<RefCell<(Vec<Message>, VecDeque<Exchange>)>>;

async fn http1_app(stream: TcpStream, script: Script) {
    let (read_half, mut write_half) = stream.into_split();
    let mut input = BufReader::new(read_half);
    while let Some(request) = read(&mut input, false).await {
        let next = {
            let mut script = script.borrow_mut();
            script.0.push(request);
            script.1.pop_front().expect("no request came twice")
        };
        let answer = write(&format!("HTTP/1.1 {} Any Reason", next.answer.0.first), &next.answer, "", next.capitals);
        for piece in answer.chunks(next.piece) {
            write_half.write_all(piece).await.unwrap();
        }
        if next.answer.1 == Framing::UntilClose {
            return;
        }
    }
}

/// The request as bytes, with what belongs to the hop beside it.
fn asked(exchange: &Exchange) -> Vec<u8> {
    let (method, target) = exchange.request.0.first.split_once(' ').unwrap();
    let target = if exchange.absolute { format!("http://orders.shop{target}") } else { target.to_owned() };
    let hop =
        "Host: orders.shop\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n";
    write(&format!("{method} {target} HTTP/1.1"), &exchange.request, hop, exchange.capitals)
}

fn check_request(mut got: Message, exchange: &Exchange) {
    let hosts: Vec<_> = got.fields.iter().filter(|(name, _)| name == "host").collect();
    assert!(hosts.len() == 1 && hosts[0].1 == b"orders.shop", "{hosts:?}");
    assert!(!got.fields.iter().any(|(name, _)| name == "x-hop" || name == "keep-alive"), "{:?}", got.fields);
    got.first = got.first.strip_suffix(" HTTP/1.1").expect("HTTP/1.1").to_owned();
    if exchange.absolute {
        got.first = got.first.replacen("http://orders.shop", "", 1);
    }
    assert_same(&got, &exchange.request.0, "the request");
}

fn check_answer(mut got: Message, exchange: &Exchange) {
    got.first = got.first.split(' ').nth(1).unwrap_or_default().to_owned();
    assert_same(&got, &exchange.answer.0, "the answer");
}

#[tokio::test]
async fn any_request_and_any_answer_in_http1_survive_the_pair_also_pipelined() {
    on_worker(async {
        let script = Script::default();
        let shared = Rc::clone(&script);
        let (port, _) = app(move |stream| http1_app(stream, Rc::clone(&shared))).await;
        let world = world(Spec::http(port)).await;
        let (web, _) = world.capture(VIP).await;
        for batch in exchanges(240).chunks(6) {
            script.borrow_mut().1.extend(batch.iter().cloned());
            let (from, mut to) = TcpStream::connect(web).await.unwrap().into_split();
            let mut from = BufReader::new(from);
            let send = async {
                for exchange in batch {
                    for piece in asked(exchange).chunks(exchange.piece) {
                        to.write_all(piece).await.unwrap();
                    }
                }
            };
            let receive = async {
                for exchange in batch {
                    let status = exchange.answer.0.first.as_str();
                    let bodiless = exchange.request.0.first.starts_with("HEAD ") || matches!(status, "204" | "304");
                    let answer = read(&mut from, bodiless).await;
                    check_answer(answer.unwrap_or_else(|| panic!("no answer to {exchange:?}")), exchange);
                }
            };
            tokio::join!(send, receive);
            let got = std::mem::take(&mut script.borrow_mut().0);
            assert_eq!(got.len(), batch.len());
            got.into_iter().zip(batch).for_each(|(got, exchange)| check_request(got, exchange));
        }
    })
    .await;
}

fn map(fields: &Fields) -> HeaderMap {
    let pair = |(name, value): &(String, Vec<u8>)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap())
    };
    fields.iter().map(pair).collect()
}

fn fields_of(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

async fn send(mut stream: h2::SendStream<Bytes>, (message, framing): &(Message, Framing)) {
    let size = if let Framing::Chunked(size) = framing { *size } else { message.body.len().max(1) };
    for piece in message.body.chunks(size) {
        // The windows are larger than the largest body.
        stream.send_data(Bytes::copy_from_slice(piece), false).unwrap();
        tokio::task::yield_now().await;
    }
    match message.trailers.is_empty() {
        true => stream.send_data(Bytes::new(), true).unwrap(),
        false => stream.send_trailers(map(&message.trailers)).unwrap(),
    }
}

async fn receive(first: String, headers: &HeaderMap, mut stream: h2::RecvStream) -> Message {
    let mut message = Message { first, fields: fields_of(headers), ..Message::default() };
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        message.body.extend_from_slice(&piece);
    }
    message.trailers = stream.trailers().await.unwrap().map(|map| fields_of(&map)).unwrap_or_default();
    message
}

async fn http2_app(stream: TcpStream, script: Script) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let script = Rc::clone(&script);
        tokio::task::spawn_local(async move {
            let (head, body) = request.into_parts();
            assert_eq!(head.uri.authority().map(|authority| authority.as_str()), Some("orders.shop"));
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            let request = receive(format!("{} {target}", head.method), &head.headers, body).await;
            let next = {
                let mut script = script.borrow_mut();
                script.0.push(request);
                script.1.pop_front().expect("no request came twice")
            };
            let (message, framing) = &next.answer;
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_bytes(message.first.as_bytes()).unwrap();
            *response.headers_mut() = map(&message.fields);
            let ends = *framing == Framing::None;
            let stream = respond.send_response(response, ends).unwrap();
            if !ends {
                send(stream, &next.answer).await;
            }
        });
    }
}

#[tokio::test]
async fn any_request_and_any_answer_in_http2_survive_the_pair() {
    on_worker(async {
        let script = Script::default();
        let shared = Rc::clone(&script);
        let (port, _) = app(move |stream| http2_app(stream, Rc::clone(&shared))).await;
        let world = world(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) }).await;
        let (web, _) = world.capture(VIP).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let (mut sender, connection) = builder.handshake(TcpStream::connect(web).await.unwrap()).await.unwrap();
        tokio::task::spawn_local(connection);
        for exchange in &exchanges(240) {
            script.borrow_mut().1.push_back(exchange.clone());
            let (method, target) = exchange.request.0.first.split_once(' ').unwrap();
            let mut request = Request::new(());
            *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
            *request.uri_mut() = format!("http://orders.shop{target}").parse().unwrap();
            *request.headers_mut() = map(&exchange.request.0.fields);
            let ends = exchange.request.1 == Framing::None;
            sender = sender.ready().await.unwrap();
            let (response, stream) = sender.send_request(request, ends).unwrap();
            let upload = async {
                if !ends {
                    send(stream, &exchange.request).await;
                }
            };
            let answered = async {
                let (head, body) = response.await.unwrap().into_parts();
                receive(head.status.as_str().to_owned(), &head.headers, body).await
            };
            let ((), answer) = tokio::join!(upload, answered);
            assert_same(&answer, &exchange.answer.0, "the answer");
            let got = std::mem::take(&mut script.borrow_mut().0);
            assert_eq!(got.len(), 1);
            assert_same(&got[0], &exchange.request.0, "the request");
        }
    })
    .await;
}
