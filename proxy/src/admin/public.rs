//! The two ports that the network may read.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use crate::telemetry::Metrics;

use super::readiness::Readiness;
use super::serve::{Answer, only, page, text};

/// `/metrics`, and nothing else.
pub fn metrics_page(request: &Request<Incoming>, metrics: &Metrics) -> Answer {
    only(request, "/metrics", || page(StatusCode::OK, Metrics::CONTENT_TYPE, metrics.render()))
}

/// `/ready`, and nothing else: 200, or 503 with the reason's word first.
pub fn readiness_page(request: &Request<Incoming>, readiness: &Readiness) -> Answer {
    only(request, "/ready", || match readiness.check() {
        Ok(()) => {
            let warnings = readiness.warnings().into_iter().map(|warning| format!("warning: {warning}\n"));
            text(StatusCode::OK, std::iter::once("ready\n".to_owned()).chain(warnings).collect::<String>())
        }
        Err((reason, detail)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}: {detail}\n")),
    })
}
