//! The two ports that the network may read.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use crate::telemetry::{Metrics, PageForm};

use super::readiness::Readiness;
use super::serve::{Answer, only, page, text};

/// `/metrics`, and nothing else, in the form that the scraper likes best.
pub fn metrics_page(request: &Request<Incoming>, metrics: &Metrics) -> Answer {
    only(request, "/metrics", || {
        let form = PageForm::wanted(request.headers());
        page(StatusCode::OK, form.content_type(), metrics.render_as(form))
    })
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
