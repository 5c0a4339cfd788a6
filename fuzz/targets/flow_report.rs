//! A proxy's report of its decisions, as the control plane reads it; and a path as the proxy makes it a template.

use isthmus_proto::flows::v1::ReportRequest;
use isthmus_proto::model::flow::{MAX_FLOWS, MAX_REFUSALS, Report};
use isthmus_proxy::flows::template::{OTHER, Templates, UNCLEAR};
use prost::Message;

pub fn run(bytes: &[u8]) {
    if let Ok(request) = ReportRequest::decode(bytes)
        && let Ok(report) = Report::read(&request)
    {
        assert!(report.flows.len() <= MAX_FLOWS && report.refusals.len() <= MAX_REFUSALS);
        for flow in &report.flows {
            assert!(flow.count > 0 && flow.first_seen_unix_ms <= flow.last_seen_unix_ms);
            assert!((1..=65_535).contains(&flow.port));
        }
        for left in &report.departures {
            assert!(left.count > 0 && left.first_seen_unix_ms <= left.last_seen_unix_ms);
            assert!((1..=65_535).contains(&left.port) && (left.read || left.host.is_empty()));
        }
    }
    let mut templates = Templates::default();
    for target in String::from_utf8_lossy(bytes).split('\n') {
        let id = templates.of(target);
        assert_eq!(templates.of(target), id);
        let text = templates.text(id);
        assert!(text.starts_with('/') || text == OTHER || text == UNCLEAR);
        assert!(!text.contains(['?', '\\', '%', '@']));
    }
}
