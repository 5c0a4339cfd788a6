//! Opaque bytes through the pair: exact, half-closed, slow, reset, refused, and who is told what before them.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use isthmus_proto::model::TrafficOptions;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::world_test::{OWN, Spec, VIP, app, exchange, on_worker, world};
use crate::state::{AppProtocol, Connect, ProxyProtocol};
use crate::tcp::reset;

fn bytes_of(protocol: AppProtocol, port: u16, options: TrafficOptions) -> Spec {
    Spec { protocol, options, ..Spec::http(port) }
}

fn tcp(port: u16) -> Spec {
    bytes_of(AppProtocol::Tcp, port, TrafficOptions::default())
}

async fn closed_port() -> u16 {
    TcpListener::bind((OWN, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Any bytes in any pieces, then the end.
async fn say(to: &mut (impl AsyncWrite + Unpin), seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut said = vec![0; rng.random_range(0..400_000)];
    rng.fill_bytes(&mut said);
    let mut at = 0;
    while at < said.len() {
        let most = [1, 100, 5_000, 300_000][rng.random_range(0..4)];
        let end = (at + rng.random_range(1..=most)).min(said.len());
        to.write_all(&said[at..end]).await.unwrap();
        at = end;
        if rng.random_bool(0.3) {
            tokio::task::yield_now().await;
        }
    }
    to.shutdown().await.unwrap();
    said
}

async fn hear(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut heard = Vec::new();
    from.read_to_end(&mut heard).await.unwrap();
    heard
}

/// One side says everything and ends, and only then the other begins; or both at once.
#[tokio::test]
async fn whatever_is_said_in_whatever_pieces_arrives_exactly_and_ends_on_each_side_for_itself() {
    on_worker(async {
        let turn = Rc::new(RefCell::new((0u64, None::<oneshot::Sender<(Vec<u8>, Vec<u8>)>>)));
        let shared = Rc::clone(&turn);
        let (port, _) = app(move |mut stream: TcpStream| {
            let (seed, done) = {
                let mut turn = shared.borrow_mut();
                (turn.0, turn.1.take())
            };
            async move {
                let (mut read, mut write) = stream.split();
                let (heard, said) = if seed % 3 == 0 {
                    let heard = hear(&mut read).await;
                    (heard, say(&mut write, seed + 1).await)
                } else if seed % 3 == 1 {
                    let said = say(&mut write, seed + 1).await;
                    (hear(&mut read).await, said)
                } else {
                    tokio::join!(hear(&mut read), say(&mut write, seed + 1))
                };
                done.unwrap().send((heard, said)).unwrap();
            }
        })
        .await;
        let world = world(tcp(port)).await;
        let (web, open) = world.capture(VIP).await;
        for seed in 0..18 {
            let (done, result) = oneshot::channel();
            *turn.borrow_mut() = (seed, Some(done));
            let mut stream = TcpStream::connect(web).await.unwrap();
            let (mut read, mut write) = stream.split();
            let (said, heard) = if seed % 3 == 1 {
                let heard = hear(&mut read).await;
                (say(&mut write, seed * 1_000).await, heard)
            } else {
                tokio::join!(say(&mut write, seed * 1_000), hear(&mut read))
            };
            let (app_heard, app_said) = result.await.unwrap();
            assert!(app_heard == said && heard == app_said, "seed {seed}");
        }
        while open.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer_and_nothing_is_lost() {
    on_worker(async {
        let (go, wait) = oneshot::channel::<()>();
        let wait = RefCell::new(Some(wait));
        let (counted, count) = oneshot::channel();
        let counted = RefCell::new(Some(counted));
        let (port, _) = app(move |mut stream: TcpStream| {
            let (wait, counted) = (wait.take().unwrap(), counted.take().unwrap());
            async move {
                wait.await.unwrap();
                counted.send(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap()).unwrap();
            }
        })
        .await;
        let world = world(tcp(port)).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        let (mut sent, chunk) = (0, vec![7; 1 << 20]);
        // A writer that makes no progress for so long is stopped.
        while let Ok(wrote) = tokio::time::timeout(Duration::from_secs(1), stream.write(&chunk)).await {
            sent += wrote.unwrap();
            // The stream's window and the kernels' buffers of three connections hold less than this.
            assert!(sent < 96 << 20, "nothing holds the writer back");
        }
        go.send(()).unwrap();
        drop(stream);
        assert_eq!(count.await.unwrap(), sent as u64);
    })
    .await;
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            stream.write_all(&first).await.unwrap();
            if first == *b"r" {
                // The echo has arrived: a reset may overtake what is still on its way, as TCP's does.
                stream.read_exact(&mut first).await.unwrap();
                reset(stream);
            } else {
                let error = stream.read(&mut first).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            }
        })
        .await;
        let world = world(tcp(port)).await;
        let (web, open) = world.capture(VIP).await;
        for first in [*b"r", *b"k"] {
            let mut stream = TcpStream::connect(web).await.unwrap();
            stream.write_all(&first).await.unwrap();
            stream.read_exact(&mut [0; 1]).await.unwrap();
            if first == *b"r" {
                stream.write_all(b"!").await.unwrap();
                assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            } else {
                reset(stream);
            }
        }
        while open.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn greet(mut stream: TcpStream) {
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.unwrap();
    stream.write_all(&[&said[..], b" yourself"].concat()).await.unwrap();
}

#[tokio::test]
async fn another_endpoint_is_tried_where_the_app_was_not_reached_and_gets_the_same_bytes() {
    on_worker(async {
        let (port, accepted) = app(greet).await;
        for connect in [Connect::Early, Connect::Confirm] {
            let options = TrafficOptions { connect, ..TrafficOptions::default() };
            let spec = Spec { second: Some(port), ..bytes_of(AppProtocol::Tcp, closed_port().await, options) };
            let world = world(spec).await;
            let (web, _) = world.capture(VIP).await;
            for _ in 0..2 {
                assert_eq!(exchange(web, b"hello").await.unwrap(), "hello yourself", "{connect:?}");
            }
        }
        assert_eq!(accepted.get(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_by_policy_is_final() {
    on_worker(async {
        let (port, accepted) = app(greet).await;
        let world = world(Spec { second: Some(port), allow: Some(vec!["batch"]), ..tcp(port) }).await;
        let (web, _) = world.capture(VIP).await;
        assert_eq!(exchange(web, b"hello").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!((accepted.get(), world.orders.metrics.own_load()), (0, 1), "one mesh connection, nothing else");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_taken_from_the_app_before_confirmation() {
    on_worker(async {
        let options = TrafficOptions { connect: Connect::Confirm, ..TrafficOptions::default() };
        let world = world(bytes_of(AppProtocol::Tcp, closed_port().await, options)).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

/// What libpq does, byte for byte; it then tries its next host.
#[tokio::test]
async fn a_postgres_client_is_told_in_its_own_words_to_try_another_host() {
    on_worker(async {
        let options = TrafficOptions { connect: Connect::Confirm, ..TrafficOptions::default() };
        let world = world(bytes_of(AppProtocol::Postgres, closed_port().await, options)).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        for request in [[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30], [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]] {
            stream.write_all(&request).await.unwrap();
            let mut answer = [0; 1];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, *b"N");
        }
        stream.write_all(b"\0\0\0\x11\0\x03\0\0user\0me\0\0").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[0], b'E');
        assert_eq!(u32::from_be_bytes(answer[1..5].try_into().unwrap()) as usize, answer.len() - 1);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("C57P03\0") && text.contains("app-unreachable"), "{text}");
        // What is no PostgreSQL gets RST.
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn on_an_undeclared_port_a_server_that_speaks_first_is_heard_on_one_connection() {
    on_worker(async {
        let (port, accepted) = app(|mut stream: TcpStream| async move {
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut line = [0; 4];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(&line).await.unwrap();
        })
        .await;
        let world = world(bytes_of(AppProtocol::Detect, port, TrafficOptions::default())).await;
        let (web, _) = world.capture(VIP).await;
        for connections in 1..=3 {
            let mut stream = TcpStream::connect(web).await.unwrap();
            let mut banner = [0; 11];
            stream.read_exact(&mut banner).await.unwrap();
            stream.write_all(b"QUIT").await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!((&banner, &rest[..]), (b"220 ready\r\n", &b"QUIT"[..]));
            assert_eq!(accepted.get(), connections);
        }
    })
    .await;
}

#[tokio::test]
async fn an_app_that_asks_for_it_reads_a_proxy_header_first() {
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut bytes = vec![0; 28 + 5];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        })
        .await;
        let options = TrafficOptions { proxy_protocol: ProxyProtocol::V2, ..TrafficOptions::default() };
        let world = world(bytes_of(AppProtocol::Tcp, port, options)).await;
        let (web, _) = world.capture(VIP).await;
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut bytes = vec![0; 28 + 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(&bytes[20..24], [127, 0, 0, 2], "the app's own address");
        assert_eq!((&bytes[26..28], &bytes[28..]), (&port.to_be_bytes()[..], &b"hello"[..]));
    })
    .await;
}

/// PostgreSQL past the sidecar: GSSAPI is asked for, refused by the server, then TLS is.
#[tokio::test]
async fn a_gss_request_may_come_before_the_ssl_request() {
    use crate::detect::hello_bytes::{client_hello, server_hello};
    on_worker(async {
        let (port, _) = app(|mut stream: TcpStream| async move {
            let mut request = [0; 8];
            for answer in [b"N", b"S"] {
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
            let _ = stream.read(&mut [0; 512]).await;
            stream.write_all(&server_hello(0x0304, false)).await.unwrap();
        })
        .await;
        let spec = bytes_of(AppProtocol::Postgres, port, TrafficOptions::default());
        let world = world(Spec { transport: crate::state::Transport::HttpsOnly, ..spec }).await;
        let past = world.capture_inbound(SocketAddr::new(OWN, port)).await;
        let mut stream = TcpStream::connect(past).await.unwrap();
        for (last, expected) in [(0x30, b"N"), (0x2f, b"S")] {
            stream.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, last]).await.unwrap();
            let mut answer = [0; 1];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, expected);
        }
        stream.write_all(&client_hello(&[0x0304], 0x0303, None)).await.unwrap();
        let mut back = vec![0; server_hello(0x0304, false).len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, server_hello(0x0304, false));
    })
    .await;
}
