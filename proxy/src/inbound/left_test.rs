//! Callers that leave before they are answered: what most failures look like to whoever waits for too long. Both sides tell of
//! it, also where nobody had decided to record it.

use std::cell::Cell;
use std::rc::Rc;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::spans_test::{all, tree};
use super::world_test::{Spec, VIP, World, app, on_worker, world};
use crate::state::AppProtocol;
use crate::telemetry::Keep;

/// An app that reads what is said and says nothing, until its caller has left; it notes when it was asked.
async fn silent(asked: Rc<Notify>) -> u16 {
    let (port, _) = app(move |mut stream: TcpStream| {
        let asked = Rc::clone(&asked);
        async move {
            let mut head = [0; 1];
            if stream.read_exact(&mut head).await.is_ok() {
                asked.notify_one();
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        }
    })
    .await;
    port
}

fn heads(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split(':').next().unwrap()).collect()
}

/// Asks in HTTP/1, and leaves when the app has heard of it.
async fn ask_and_leave(world: &World, asked: &Notify) {
    let (web, _) = world.capture(VIP).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: orders.shop\r\n\r\n").await.unwrap();
    asked.notified().await;
    crate::tcp::reset(stream);
}

const LEFT: [&str; 3] =
    ["GET client error(caller-gone)", "  link internal error(caller-gone)", "    GET server error(caller-gone)"];

#[tokio::test]
async fn a_recorded_request_is_told_of_whole() {
    on_worker(Box::pin(async {
        let asked = Rc::new(Notify::new());
        let port = silent(Rc::clone(&asked)).await;
        let world = world(all(Spec::http(port))).await;
        ask_and_leave(&world, &asked).await;
        let text = tree(&world.spans(3).await);
        assert_eq!(heads(&text), LEFT, "{text}");
        assert!(!text.contains("http.response.status_code"), "there was none: {text}");
        for (metrics, direction) in [(&world.web_metrics, "outbound"), (&world.orders.metrics, "inbound")] {
            let line = format!("isthmus_requests_total{{direction=\"{direction}\",status=\"none\"}} 1");
            let page = metrics.render();
            assert!(page.lines().any(|have| have == line), "{line} in {page}");
        }
        let edge = "isthmus_service_requests_total{service=\"shop/orders\",port=\"80\",site=\"dc1\",status=\"none\"} 1";
        let page = world.web_metrics.render();
        assert!(page.lines().any(|have| have == edge), "the site that did not answer: {page}");
    }))
    .await;
}

#[tokio::test]
async fn one_that_nobody_recorded_is_kept_by_both_in_one_trace() {
    on_worker(Box::pin(async {
        let asked = Rc::new(Notify::new());
        let port = silent(Rc::clone(&asked)).await;
        let keep = Keep { errors: true, denied: false, slower_than: None };
        let world = world(Spec { traced: Some((0.0, keep)), ..Spec::http(port) }).await;
        ask_and_leave(&world, &asked).await;
        // Nobody was there to be told by the other: both knew the same trace without a word.
        let text = tree(&world.spans(3).await);
        assert_eq!(heads(&text), LEFT, "{text}");
        assert_eq!(text.matches(" isthmus.kept=error ").count(), 2, "{text}");
    }))
    .await;
}

#[tokio::test]
async fn a_stream_of_http2_that_its_caller_resets() {
    on_worker(Box::pin(async {
        let asked = Rc::new(Notify::new());
        let noted = Rc::clone(&asked);
        let open = Rc::new(Cell::new(None));
        let (port, _) = app(move |stream| {
            let (asked, open) = (Rc::clone(&noted), Rc::clone(&open));
            async move {
                let mut connection: h2::server::Connection<_, bytes::Bytes> =
                    h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, respond))) = connection.accept().await {
                    open.set(Some(respond));
                    asked.notify_one();
                }
            }
        })
        .await;
        let world = world(all(Spec { protocol: AppProtocol::Http2, ..Spec::http(port) })).await;
        let (web, _) = world.capture(VIP).await;
        let (sender, connection) = h2::client::handshake(TcpStream::connect(web).await.unwrap()).await.unwrap();
        tokio::task::spawn_local(connection);
        let mut sender: h2::client::SendRequest<bytes::Bytes> = sender.ready().await.unwrap();
        let (answer, mut stream) =
            sender.send_request(Request::get("http://orders.shop/slow").body(()).unwrap(), false).unwrap();
        asked.notified().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let text = tree(&world.spans(3).await);
        assert_eq!(heads(&text)[0], LEFT[0], "{text}");
        assert_eq!(heads(&text).len(), 3, "{text}");
    }))
    .await;
}
