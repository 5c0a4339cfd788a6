//! What a scraper says it accepts: one of three forms, and never one that it refuses.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use isthmus_proxy::telemetry::PageForm;

pub fn run(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, value);
    let form = PageForm::wanted(&headers);
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    match form {
        PageForm::Protobuf => assert!(text.contains("application/vnd.google.protobuf")),
        PageForm::OpenMetrics => assert!(text.contains("application/openmetrics-text")),
        PageForm::Text => {}
    }
}
