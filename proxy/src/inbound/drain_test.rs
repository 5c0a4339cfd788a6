//! A proxy that stops: nothing that was under way is lost, and nobody is left waiting.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world_test::{
    OWN, Spec, VIP, World, app, exchange, get, id, mirror, on_worker, publish_endpoints, publish_inbound, store, world,
};
use super::{Inbound, Needs};
use crate::flows::{Collector, Decisions};
use crate::listen::{Gate, accept};
use crate::state::{Reader, State};
use crate::telemetry::{Metrics, Tracer};

/// A callee's sidecar with a listener and an end of its own.
struct Callee {
    port: u16,
    gate: Gate,
    stop: watch::Sender<bool>,
}

impl Callee {
    async fn new(world: &World) -> Callee {
        Callee::that(world, true).await
    }

    /// `ready`: it has heard from its control plane.
    async fn that(world: &World, ready: bool) -> Callee {
        let listener = TcpListener::bind((OWN, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State::new().0;
        if ready {
            publish_inbound(&state, 1, &world.spec);
        }
        let (stop, stopped) = watch::channel(false);
        let metrics = Metrics::new(1);
        let inbound = Inbound::new(Needs {
            state: Reader::new(state),
            identity: store(&world.ca, &id("orders")),
            metrics: metrics.clone(),
            tracer: Tracer::new(&metrics).0,
            decisions: Decisions::new(),
            flows: Collector::new(0).0,
            mark: None,
            source_mark: None,
            own_ports: vec![port],
            stop: stopped,
        });
        let permits = Arc::new(Semaphore::new(1_000));
        let gate = Gate { permits, tasks: TaskTracker::new(), stop: CancellationToken::new(), metrics };
        tokio::task::spawn_local(accept(listener, gate.clone(), move |stream, peer, permit| {
            let inbound = Rc::clone(&inbound);
            async move {
                inbound.mesh(stream, peer).await;
                drop(permit);
            }
        }));
        Callee { port, gate, stop }
    }

    /// As at SIGTERM. Returns when everything has ended.
    async fn end(&self) {
        self.gate.stop.cancel();
        self.stop.send_replace(true);
        self.gate.tasks.close();
        self.gate.tasks.wait().await;
    }
}

#[tokio::test]
async fn a_callees_end_under_load_costs_no_request() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (first, second) = (Callee::new(&world).await, Callee::new(&world).await);
        publish_endpoints(&world.web_state, &[Some(first.port), Some(second.port)], &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let (done, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let callers: Vec<_> = (0..10)
            .map(|_| {
                let (done, over) = (Rc::clone(&done), Rc::clone(&over));
                tokio::task::spawn_local(async move {
                    while !over.get() {
                        let answer = get(web, "/", "").await.unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        done.set(done.get() + 1);
                    }
                })
            })
            .collect();
        let reach = |count: usize| {
            let done = Rc::clone(&done);
            async move {
                while done.get() < count {
                    tokio::task::yield_now().await;
                }
            }
        };
        reach(200).await;
        first.end().await;
        reach(done.get() + 300).await;
        over.set(true);
        for caller in callers {
            caller.await.unwrap();
        }
        // A peer under load may get its second connection.
        assert!((1..=2).contains(&second.gate.tasks.len()), "the other one serves on");
    })
    .await;
}

/// A pod that begins, as one that ends, is not asked where another one can be.
#[tokio::test]
async fn a_callee_that_has_not_begun_yet_costs_no_request() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (beginning, ready) = (Callee::that(&world, false).await, Callee::new(&world).await);
        publish_endpoints(&world.web_state, &[Some(beginning.port), Some(ready.port)], &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let post = |body: &str| {
            format!("POST / HTTP/1.1\r\nHost: o\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        for body in ["", "a body that is sent again", &"x".repeat(40_000)].repeat(3) {
            let answer = exchange(web, post(body).as_bytes()).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("\n\n{body}")), "{answer:.300}");
        }
        // Nobody else can be asked: then it is said why.
        publish_endpoints(&world.web_state, &[Some(beginning.port)], &id("orders"), &world.spec);
        let (web, _) = world.capture(VIP).await;
        let answer = get(web, "/", "").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not-ready"), "{answer}");
        let grpc = get(web, "/", "Content-Type: application/grpc\r\n").await.unwrap();
        assert!(grpc.contains("Grpc-Message: not-ready"), "{grpc}");
    })
    .await;
}

#[tokio::test]
async fn an_apps_idle_connection_is_closed_in_order() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let world = world(Spec::http(port)).await;
        let (web, open) = world.capture(VIP).await;
        let mut idle = TcpStream::connect(web).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: orders.shop\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = idle.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        let (sender, connection) = h2::client::handshake(TcpStream::connect(web).await.unwrap()).await.unwrap();
        let http2 = tokio::task::spawn_local(connection);
        let mut sender: h2::client::SendRequest<bytes::Bytes> = sender.ready().await.unwrap();
        let request = http::Request::get("http://orders.shop/").body(()).unwrap();
        // Served, whatever the answer is: this app speaks no HTTP/2.
        sender.send_request(request, true).unwrap().0.await.unwrap();
        world.stop.send_replace(true);
        // What was read of the answer's body comes first, then the end, and no reset.
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        http2.await.unwrap().unwrap();
        while open.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
