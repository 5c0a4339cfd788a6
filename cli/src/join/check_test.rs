use tonic::metadata::MetadataMap;

use super::*;

fn dated(date: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("date", date.parse().unwrap());
    Status::with_metadata(tonic::Code::Unauthenticated, "no proof", metadata)
}

#[test]
fn the_servers_time_is_read_from_its_answer() {
    assert_eq!(server_time_ms(&dated("Sat, 21 Nov 2026 22:26:40 GMT")), Some(1_795_300_000_000));
    assert_eq!(server_time_ms(&dated("soon")), None);
    assert_eq!(server_time_ms(&Status::unauthenticated("no proof")), None);
}

#[test]
fn skew_is_named_with_its_side_and_the_fix() {
    assert!(skewed(400_000).text().contains("clock skew 6 m 40 s: this machine is ahead of"));
    let behind = skewed(-3_600_000).text();
    assert!(
        behind.contains("clock skew 1 h 0 m: this machine is behind") && behind.contains("timedatectl"),
        "{behind}"
    );
}
