use std::os::unix::fs::PermissionsExt;

use http::{Method, Uri};
use isthmus_certs::SystemClock;

use super::super::Direction;
use super::*;

fn entry<'a>(method: &'a Method, uri: &'a Uri, status: u16, reason: Option<&'static str>) -> Entry<'a> {
    Entry {
        direction: Direction::Outbound,
        http2: true,
        method,
        uri,
        status,
        reason,
        decision: None,
        trace: None,
        caller: None,
        peer: None,
        destination: "10.96.0.10:80".parse().unwrap(),
        total: std::time::Duration::from_millis(1),
        app: None,
        link: None,
    }
}

fn settings(mode: AccessMode, path: &Path) -> AccessSettings {
    let format = LineFormat::parse("{path} {status} {reason}").unwrap();
    AccessSettings { mode, format, path: Some(path.to_owned()), hide_query: Vec::new() }
}

fn dropped(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix("isthmus_access_log_dropped_total "));
    line.map_or(u64::MAX, |count| count.parse().unwrap())
}

#[tokio::test]
async fn errors_are_all_that_is_written_where_only_errors_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, expected) in [
        (AccessMode::Errors, "/a 404 -\n/a 200 denied-by-rule\n/a 503 -\n"),
        (AccessMode::All, "/a 200 -\n/a 404 -\n/a 200 denied-by-rule\n/a 503 -\n"),
    ] {
        let path = dir.path().join(format!("{mode:?}"));
        let metrics = Metrics::new(1);
        let log = AccessLog::start(settings(mode, &path), Arc::new(SystemClock), &metrics).unwrap();
        let (method, uri) = (Method::GET, "/a".parse().unwrap());
        // A refusal of gRPC is a 200.
        for (status, reason) in [(200, None), (404, None), (200, Some("denied-by-rule")), (503, None)] {
            log.tell(&entry(&method, &uri, status, reason), &metrics);
        }
        log.flush().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dropped(&metrics), 0);
    }
    let off = AccessLog::start(settings(AccessMode::Off, dir.path()), Arc::new(SystemClock), &Metrics::new(1)).unwrap();
    assert!(!off.is_on());
    off.flush().await;
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let metrics = Metrics::new(1);
    let log = AccessLog::start(settings(AccessMode::All, &path), Arc::new(SystemClock), &metrics).unwrap();
    let (method, uri) = (Method::GET, "/a".parse().unwrap());
    log.tell(&entry(&method, &uri, 200, None), &metrics);
    log.flush().await;
    std::fs::rename(&path, &old).unwrap();
    log.tell(&entry(&method, &uri, 201, None), &metrics);
    log.flush().await;
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "/a 200 -\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "/a 201 -\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_known_at_start() {
    let nowhere = settings(AccessMode::All, Path::new("/nowhere/at/all"));
    assert!(AccessLog::start(nowhere, Arc::new(SystemClock), &Metrics::new(1)).is_err());
}

/// A pipe that nobody reads is a disk that hangs.
#[tokio::test]
async fn a_disk_that_takes_nothing_costs_lines_and_neither_time_nor_memory() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    // Open for reading, so that opening it for writing does not wait.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let metrics = Metrics::new(1);
    let log = AccessLog::start(settings(AccessMode::All, &pipe), Arc::new(SystemClock), &metrics).unwrap();
    let (method, uri) = (Method::GET, "/a".parse().unwrap());
    let began = std::time::Instant::now();
    for _ in 0..50_000 {
        log.tell(&entry(&method, &uri, 200, None), &metrics);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    // A line has 9 bytes; the pipe holds 64 KiB, the queue its lines, the thread some batches.
    let lost = dropped(&metrics);
    assert!((30_000..50_000).contains(&lost), "{lost} of 50000 lines were given up");
    drop(reader);
}
