//! `/metrics` and `/ready` on 15014: plain HTTP, read-only, without secrets, bounded.

use crate::authority::Own;
use crate::flows::store::FlowStore;
use crate::ledger::Ledger;
use crate::push::registry::Registry;
use crate::traces::store::TraceStore;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const CONNECTIONS: usize = 64;
/// A scrape takes milliseconds; whoever holds a connection longer than this takes a place from a scraper.
const CONNECTION_LASTS: Duration = Duration::from_secs(60);
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Pages {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) own: Arc<Own>,
    pub(crate) flows: Arc<FlowStore>,
    pub(crate) traces: Arc<TraceStore>,
}

pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>, tasks: TaskTracker, shutdown: CancellationToken) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (pages, shutdown) = (pages.clone(), shutdown.clone());
        tasks.spawn(async move {
            let answer = service_fn(move |request| {
                let response = pages.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(tcp), answer);
            tokio::select! {
                // How a scraper's connection ends is the scraper's affair.
                _ = connection => {}
                () = tokio::time::sleep(CONNECTION_LASTS) => {}
                () = shutdown.cancelled() => {}
            }
            drop(permit);
        });
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, self.metrics()),
            (&Method::GET | &Method::HEAD, "/ready") => self.ready(),
            (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "/metrics and /ready\n".to_string()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "read-only\n".to_string()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        response
    }

    fn ready(&self) -> (StatusCode, String) {
        if self.ledger.has_failed() {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                "store-failed: nothing can be written; see the log\n".to_string(),
            );
        }
        if !self.own.is_valid() {
            return (StatusCode::SERVICE_UNAVAILABLE, "certificate-expired: see the log\n".to_string());
        }
        (StatusCode::OK, "ready\n".to_string())
    }

    fn metrics(&self) -> String {
        let world = self.ledger.world();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        world.resources.keys().for_each(|key| *kinds.entry(&key.kind).or_default() += 1);
        let proxies = self.registry.list();
        let connected = proxies.iter().filter(|proxy| proxy.connected);
        let behind = connected.clone().filter(|proxy| proxy.acked < proxy.sent).count();
        let refusing = connected.clone().filter(|proxy| proxy.nacked > proxy.acked).count();
        let now_ms = self.ledger.clock().now_ms();
        let copies = proxies.iter().filter(|p| p.copy.as_ref().is_some_and(|copy| copy.is_trouble(now_ms))).count();
        let expiry = self.own.store.current().map_or(0, |current| current.not_after.as_secs());
        let mut text = String::new();
        let gauges = [
            ("isthmus_controlplane_revision", "The store's revision.", world.revision),
            (
                "isthmus_controlplane_proxies_connected",
                "Proxies with a discovery stream.",
                connected.clone().count() as u64,
            ),
            (
                "isthmus_controlplane_proxies_behind",
                "Connected proxies that have not answered their latest push.",
                behind as u64,
            ),
            (
                "isthmus_controlplane_proxies_refusing",
                "Connected proxies that refused their latest push.",
                refusing as u64,
            ),
            (
                "isthmus_controlplane_bypasses_active",
                "Break-glass that is open now (isthmus bypass).",
                crate::views::bypasses(&world.resources, self.ledger.clock().now_ms()).len() as u64,
            ),
            (
                "isthmus_controlplane_identity_copies",
                "Workloads whose identity a second machine has come with within the hour.",
                copies as u64,
            ),
            ("isthmus_controlplane_certificate_expiry_seconds", "When the own certificate ends, Unix time.", expiry),
            (
                "isthmus_controlplane_store_failed",
                "1: the store or the audit log failed, and nothing can be written.",
                u64::from(self.ledger.has_failed() || self.own.issuer.audit().unwritable().is_some()),
            ),
        ];
        for (name, help, value) in gauges.into_iter().chain(self.kept()) {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        let name = "isthmus_controlplane_lag_seconds";
        let behind = connected.filter_map(|proxy| Some(proxy.behind_since?.elapsed().as_secs_f64()));
        let (longest, help) =
            (behind.fold(0.0, f64::max), "For how long the connected proxy that is most behind has been so.");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {longest:.3}");
        let name = "isthmus_controlplane_resources";
        let _ = writeln!(text, "# HELP {name} Resources by kind.\n# TYPE {name} gauge");
        for (kind, count) in kinds {
            let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {count}");
        }
        text
    }

    /// What of the mesh's traffic is kept here.
    fn kept(&self) -> [(&'static str, &'static str, u64); 4] {
        // What cannot be read is in the log of whoever writes it.
        let (flows, _, evicted) = self.flows.size().unwrap_or_default();
        [
            ("isthmus_controlplane_flow_records", "Flow records that are kept.", flows),
            (
                "isthmus_controlplane_flow_records_evicted",
                "Flow records that were given up for room (MeshConfig spec.flows), since the store was made.",
                evicted,
            ),
            (
                "isthmus_controlplane_flows_dropped",
                "Decisions that proxies reported to be in no record, since the store was made.",
                self.flows.dropped().unwrap_or_default(),
            ),
            (
                "isthmus_controlplane_traces",
                "Traces that are kept in memory while no collector is configured (isthmus trace).",
                self.traces.size().0 as u64,
            ),
        ]
    }
}
