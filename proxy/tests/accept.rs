//! The accept loop of a process that has no descriptor left. Its own process: the limit holds for all of it.

use std::net::{Ipv4Addr, TcpStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use isthmus_proxy::listen::{Gate, accept};
use isthmus_proxy::telemetry::Metrics;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often accept failed for want of a descriptor.
fn failures(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line =
        text.lines().find_map(|line| line.strip_prefix("isthmus_accept_errors_total{cause=\"too-many-files\"} "));
    line.map_or(0, |count| count.parse().expect("a count"))
}

#[test]
fn without_descriptors_the_loop_backs_off_and_then_serves_who_waited() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = StdStream::connect(address).unwrap();
        let metrics = Metrics::new(1);
        let gate = Gate {
            permits: Arc::new(Semaphore::new(8)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            metrics: metrics.clone(),
        };
        let (seen, mut served) = mpsc::channel(1);

        // From here on no descriptor can be had.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: limit.maximum }).unwrap();
        tokio::task::spawn_local(accept(listener, gate, move |_stream, peer, _permit| {
            let seen = seen.clone();
            async move { seen.send(peer).await.unwrap() }
        }));
        let minute = tokio::time::timeout(Duration::from_secs(60), served.recv()).await;
        assert!(minute.is_err(), "nobody can be served");
        // 5 ms, doubled up to 1 s: some seventy in a minute. A loop that tries at once makes millions.
        let tried = failures(&metrics);
        assert!((50..=80).contains(&tried), "{tried} attempts in a minute");

        setrlimit(Resource::Nofile, limit).unwrap();
        let peer = tokio::time::timeout(Duration::from_secs(2), served.recv()).await;
        assert_eq!(peer.expect("within the longest pause"), Some(client.local_addr().unwrap()));
    });
}
