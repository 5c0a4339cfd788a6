//! What of a report is kept.

use proptest::prelude::*;
use prost::Message;

use super::*;

fn flow() -> wire::Flow {
    wire::Flow {
        identity: "spiffe://shop.example/ns/shop/sa/web".into(),
        address: "10.10.1.10".into(),
        port: 8080,
        transport: wire::Transport::Mesh.into(),
        verdict: wire::Verdict::Allowed.into(),
        count: 3,
        first_seen_unix_ms: 1,
        last_seen_unix_ms: 2,
        ..Default::default()
    }
}

fn read(flow: wire::Flow) -> Report {
    Report::read(&wire::ReportRequest { sequence: 1, flows: vec![flow], ..Default::default() }).unwrap()
}

#[test]
fn what_is_not_as_it_must_be_is_counted_and_not_kept() {
    assert_eq!(read(flow()).flows.len(), 1);
    assert_eq!(read(wire::Flow { identity: String::new(), address: String::new(), ..flow() }).flows.len(), 1);
    for wrong in [
        wire::Flow { identity: "web".into(), ..flow() },
        wire::Flow { address: "web".into(), ..flow() },
        wire::Flow { port: 0, ..flow() },
        wire::Flow { port: 70_000, ..flow() },
        wire::Flow { transport: 0, ..flow() },
        wire::Flow { verdict: 99, ..flow() },
        wire::Flow { first_seen_unix_ms: 3, ..flow() },
        wire::Flow { path: "x".repeat(10_000), ..flow() },
    ] {
        let report = read(wrong.clone());
        assert_eq!((report.flows.len(), report.unreadable), (0, 3), "{wrong:?}");
    }
    assert!(Report::read(&wire::ReportRequest::default()).is_err(), "without a number it could count twice");
    let many = wire::ReportRequest { sequence: 1, flows: vec![flow(); MAX_FLOWS + 1], ..Default::default() };
    assert!(Report::read(&many).is_err());
}

#[test]
fn of_what_was_not_read_nothing_may_be_said() {
    let read = wire::Departure {
        host: "api.example".into(),
        read: true,
        address: "203.0.113.7".into(),
        port: 443,
        transport: wire::Transport::Tls.into(),
        verdict: wire::Verdict::Allowed.into(),
        count: 3,
        first_seen_unix_ms: 1,
        last_seen_unix_ms: 2,
        ..Default::default()
    };
    let unread = wire::Departure { host: String::new(), read: false, transport: 0, ..read.clone() };
    let kept = |departure: &wire::Departure| {
        let request = wire::ReportRequest { sequence: 1, departures: vec![departure.clone()], ..Default::default() };
        let report = Report::read(&request).unwrap();
        (report.departures.len(), report.unreadable)
    };
    for right in [&read, &unread, &wire::Departure { address: String::new(), ..read.clone() }] {
        assert_eq!(kept(right), (1, 0), "{right:?}");
    }
    for wrong in [
        wire::Departure { host: "api.example".into(), ..unread.clone() },
        wire::Departure { transport: 0, ..read.clone() },
        wire::Departure { transport: 99, ..read.clone() },
        wire::Departure { verdict: 0, ..read.clone() },
        wire::Departure { port: 0, ..read.clone() },
        wire::Departure { address: "api.example".into(), ..read.clone() },
        wire::Departure { host: "x".repeat(10_000), ..read.clone() },
        wire::Departure { last_seen_unix_ms: 0, ..read },
    ] {
        assert_eq!(kept(&wrong), (0, 3), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic_and_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(request) = wire::ReportRequest::decode(bytes.as_slice())
            && let Ok(report) = Report::read(&request)
        {
            prop_assert!(report.flows.len() <= request.flows.len());
            prop_assert!(report.flows.iter().all(|flow| flow.port != 0 && flow.count != 0));
            prop_assert!(report.departures.iter().all(|left| left.port != 0 && left.count != 0));
        }
    }
}
