//! Connections of apps, byte by byte: keep-alive, pipelining, limits, deadlines, half-closing clients, what is kept for reuse.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::HEAD_DEADLINE;
use crate::http::body::Frame;
use crate::http::client::AppClient;
use crate::http::{Answer, Asked, Body, h1, target};
use crate::tcp::DialOptions;

async fn on_worker<T>(test: impl Future<Output = T>) -> T {
    let local = tokio::task::LocalSet::new();
    local.run_until(test).await
}

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Serves with the request's own body as the answer, as it comes on `/stream`; its line in `x-asked`.
fn echo(server: TcpStream, stop: watch::Receiver<bool>) -> tokio::task::JoinHandle<std::io::Result<h1::Ended>> {
    tokio::task::spawn_local(async move {
        let handle = async |asked: Asked<'_>| -> Answer {
            let (head, mut body) = asked.request.into_parts();
            if head.uri.path() != "/stream" {
                body = whole(body).await;
            }
            let mut response = Response::new(body);
            let line = format!("{} {}", head.method, head.uri);
            response.headers_mut().insert("x-asked", line.parse().unwrap());
            if head.uri.path() == "/none" {
                *response.status_mut() = StatusCode::NO_CONTENT;
            }
            response.into()
        };
        h1::serve(h1::Connection::new(server, BytesMut::new()), stop, |_, _| {}, handle).await
    })
}

async fn whole(mut body: Body) -> Body {
    let mut all = BytesMut::new();
    while let Some(Ok(Frame::Data(data))) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        all.extend_from_slice(&data);
    }
    if all.is_empty() { Body::Empty } else { Body::Word(all.freeze()) }
}

/// What comes back for `bytes`, after which the client ends its side.
async fn say(bytes: &[u8]) -> String {
    let (mut client, server) = pair().await;
    let (_stop, stopped) = watch::channel(false);
    let serving = echo(server, stopped);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    serving.await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_turn_to_a_client_that_ended_its_side() {
    on_worker(async {
        let answer = say(b"\r\nGET /a HTTP/1.1\r\nHost: o\r\n\r\nPOST /b HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\n\r\nxyz\
              HEAD /c HTTP/1.1\r\nHost: o\r\n\r\nGET /none HTTP/1.1\r\nHost: o\r\n\r\nGET /d HTTP/1.1\r\nHost: o\r\n\r\n")
        .await;
        let at = |text: &str| answer.find(text).unwrap_or_else(|| panic!("{text} in {answer}"));
        assert!(at("GET /a") < at("POST /b") && at("POST /b") < at("HEAD /c") && at("HEAD /c") < at("GET /d"), "{answer}");
        assert!(answer.contains("Content-Length: 3\r\n\r\nxyzHTTP/1.1"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4, "{answer}");
        let none = &answer[at("HTTP/1.1 204")..at("GET /d")];
        assert!(!none.contains("Content-Length") && !none.contains("chunked"), "{none}");
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_last_request_is_no_request() {
    on_worker(async {
        let close = "GET /a HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\nHost: o\r\n\r\n";
        let answer = say(close.as_bytes()).await;
        assert!(answer.contains("Connection: close") && !answer.contains("/b"), "{answer}");
        let old = say(b"GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n").await;
        assert!(old.contains("GET /a") && !old.contains("/b"), "{old}");
        let smuggled = "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: o\r\n\r\n";
        let answer = say(smuggled.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("ambiguous-framing"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks_and_its_connection_kept_where_it_asks() {
    on_worker(async {
        let body = "POST /a HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nxyz";
        let answer = say(body.as_bytes()).await;
        assert!(answer.ends_with("\r\n\r\nxyz") && !answer.contains("chunked"), "{answer}");
        let answer = say(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n").await;
        assert!(answer.contains("Connection: keep-alive") && answer.contains("GET /b"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_chunk_breaks_the_exchange_and_is_never_an_end() {
    on_worker(async {
        let (mut client, server) = pair().await;
        let (_stop, stopped) = watch::channel(false);
        let serving = echo(server, stopped);
        client
            .write_all(b"POST /stream HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 4096];
        let mut length = 0;
        while !answer[..length].ends_with(b"3\r\nabc\r\n") {
            length += client.read(&mut answer[length..]).await.unwrap();
        }
        client.write_all(b"3\nabc").await.unwrap();
        let rest = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(serving.await.unwrap().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_fields_is_refused_by_its_word() {
    on_worker(async {
        let large = format!("GET / HTTP/1.1\r\nHost: o\r\nX: {}\r\n\r\n", "v".repeat(90 * 1024));
        let many = format!("GET / HTTP/1.1\r\nHost: o\r\n{}\r\n", "a: b\r\n".repeat(300));
        for head in [large, many] {
            let answer = say(head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 431 ") && answer.ends_with("headers-too-large"), "{answer}");
        }
        let garbage = say(b"\x80\x00\x01garbage").await;
        assert!(
            garbage.starts_with("HTTP/1.1 400 ") && garbage.contains("Isthmus-Denied: malformed-request"),
            "{garbage}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_has_a_deadline_and_an_idle_connection_has_none() {
    on_worker(async {
        let (mut client, server) = pair().await;
        let (_stop, stopped) = watch::channel(false);
        let serving = echo(server, stopped);
        tokio::time::sleep(Duration::from_secs(7 * 86_400)).await;
        client.write_all(b"GET /a HTTP/1.1\r\nHost: o\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let count = client.read(&mut answer).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200 OK"));
        client.write_all(b"GET /b HTTP/1.1\r\nHo").await.unwrap();
        let started = tokio::time::Instant::now();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("request-timeout"), "{answer}");
        assert_eq!(started.elapsed().as_secs(), HEAD_DEADLINE.as_secs());
        drop(client);
        serving.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_what_is_idle_and_finishes_what_is_in_flight() {
    on_worker(async {
        let (stop, stopped) = watch::channel(false);
        let (mut idle, server) = pair().await;
        let serving = echo(server, stopped.clone());
        let (mut busy, server) = pair().await;
        let answering = echo(server, stopped);
        busy.write_all(b"POST /stream HTTP/1.1\r\nHost: o\r\nContent-Length: 3\r\n\r\n").await.unwrap();
        let mut head = vec![0; 4096];
        let count = busy.read(&mut head).await.unwrap();
        assert!(head[..count].starts_with(b"HTTP/1.1 200 OK"));
        stop.send(true).unwrap();
        assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0);
        serving.await.unwrap().unwrap();
        busy.write_all(b"xyz").await.unwrap();
        let mut rest = String::new();
        busy.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("xyz"), "{rest}");
        answering.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_holds_little() {
    on_worker(async {
        let (client, server) = pair().await;
        let (_stop, stopped) = watch::channel(false);
        let handle = async |_: Asked<'_>| -> Answer { Response::new(Body::Empty).into() };
        let serving = h1::serve(h1::Connection::new(server, BytesMut::new()), stopped, |_, _| {}, handle);
        // 2 KiB per idle connection are for all of it: this, the task's header, the runtime's registration.
        assert!(size_of_val(&serving) <= 1024, "{} bytes", size_of_val(&serving));
        drop((client, serving));
    })
    .await;
}

/// An app that answers each request with the next of `answers`, one list per connection.
async fn app(answers: &'static [&'static [&'static [u8]]]) -> (std::net::SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    tokio::task::spawn_local(async move {
        for answers in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            tokio::task::spawn_local(async move {
                for answer in *answers {
                    if stream.read(&mut [0; 4096]).await.unwrap_or(0) == 0 {
                        return;
                    }
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, accepted)
}

async fn ask(client: &AppClient, address: std::net::SocketAddr, method: &str, body: Body) -> Result<String, String> {
    let mut request = http::Request::builder().method(method).uri("http://o/").body(body).unwrap();
    target::into_http1(&mut request, false).unwrap();
    let caller = crate::http::Caller::Http1(None);
    let answer = client
        .send(
            crate::http::client::To { address, http2: false, own: None, limit: crate::http::patience::DEFAULT_LIMIT },
            request,
            None,
            caller,
        )
        .await
        .map_err(|error| error.reason().word().to_owned())?;
    let (head, mut body) = answer.response.into_parts();
    let mut text = format!("{} ", head.status.as_u16());
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        match frame.map_err(|error| error.to_string())? {
            Frame::Data(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
            Frame::Trailers(trailers) => text.push_str(&format!(" {trailers:?}")),
        }
    }
    Ok(text)
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_one_that_said_too_much_is_not() {
    on_worker(async {
        const ONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
        const SPLIT: &[u8] =
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwoHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let (address, accepted) = app(&[&[ONE, SPLIT], &[b"HTTP/1.1 200 OK\r\n\r\nthree"], &[ONE]]).await;
        let client = AppClient::new(DialOptions::default());
        assert_eq!(ask(&client, address, "GET", Body::Empty).await.unwrap(), "200 one");
        assert_eq!(ask(&client, address, "GET", Body::Empty).await.unwrap(), "200 two");
        assert_eq!(accepted.get(), 1);
        assert_eq!(ask(&client, address, "GET", Body::Empty).await.unwrap(), "200 three");
        assert_eq!(ask(&client, address, "GET", Body::Empty).await.unwrap(), "200 one");
        assert_eq!(accepted.get(), 3);
        assert_eq!(client.open(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_again_only_if_that_is_certainly_no_second_time() {
    on_worker(async {
        const ONE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
        // Each connection reads its second request and ends without a word.
        let (address, accepted) = app(&[&[ONE, b""], &[ONE, b""], &[ONE]]).await;
        let client = AppClient::new(DialOptions::default());
        ask(&client, address, "GET", Body::Empty).await.unwrap();
        assert_eq!(ask(&client, address, "PUT", Body::word("x")).await.unwrap(), "200 one");
        assert_eq!(accepted.get(), 2);
        assert_eq!(ask(&client, address, "POST", Body::word("x")).await, Err("app-unreachable".to_owned()));
        assert_eq!(accepted.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_can_be_misread_is_none() {
    on_worker(async {
        let (address, _) = app(&[
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
            &[b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"],
            &[b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n"],
        ])
        .await;
        let client = AppClient::new(DialOptions::default());
        assert_eq!(ask(&client, address, "GET", Body::Empty).await, Err("malformed-response".to_owned()));
        assert_eq!(ask(&client, address, "GET", Body::Empty).await, Err("malformed-response".to_owned()));
        let short = ask(&client, address, "GET", Body::Empty).await;
        assert!(short.is_err(), "{short:?}");
        assert_eq!(ask(&client, address, "GET", Body::Empty).await.unwrap(), "200 ok {\"x-sum\": \"2\"}");
        assert_eq!(client.open(), 1);
    })
    .await;
}
