//! The accept loop of one listener on one worker.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::Metrics;

/// One connection's place among those that a worker may have; given back when dropped.
pub type Permit = OwnedSemaphorePermit;

const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MOST: Duration = Duration::from_secs(1);

/// What a worker's accept loops share.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Connections that may be open at once.
    pub permits: Arc<Semaphore>,
    /// Owns the connections' tasks: waited for when the worker drains.
    pub tasks: TaskTracker,
    /// Ends the loop; connections go on.
    pub stop: CancellationToken,
    pub metrics: Metrics,
}

/// Accepts until told to stop and runs `serve` for each connection as a task of its own on this worker. Must run in a
/// `LocalRuntime` or `LocalSet`. What waits in the kernel's queue when it is told to stop is still served: closing the listener would
/// reset it.
pub async fn accept<S, F>(listener: TcpListener, gate: Gate, serve: S)
where
    S: Fn(TcpStream, SocketAddr, Permit) -> F,
    F: Future<Output = ()> + 'static,
{
    let mut backoff = BACKOFF_FIRST;
    loop {
        let permit = tokio::select! {
            () = gate.stop.cancelled() => break,
            permit = gate.permits.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break }; // The semaphore is closed: the worker ends.
        let accepted = tokio::select! {
            () = gate.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = BACKOFF_FIRST;
                gate.tasks.spawn_local(serve(stream, canonical(peer), permit));
            }
            Err(error) if is_of_one_connection(&error) => gate.metrics.accept_error("aborted"),
            Err(error) => {
                // Nothing gets better by trying at once: descriptors come back when connections end.
                gate.metrics.accept_error(word(&error));
                tracing::warn!(%error, ?backoff, "accept failed; raise the limit of open files if this stays");
                tokio::select! {
                    () = gate.stop.cancelled() => break,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(BACKOFF_MOST);
            }
        }
    }
    empty_queue(listener, &gate, serve);
}

/// Straight from the kernel: the runtime may not have heard yet of the last connections.
fn empty_queue<S, F>(listener: TcpListener, gate: &Gate, serve: S)
where
    S: Fn(TcpStream, SocketAddr, Permit) -> F,
    F: Future<Output = ()> + 'static,
{
    let Ok(listener) = listener.into_std() else { return };
    while let Ok(permit) = gate.permits.clone().try_acquire_owned() {
        let Ok((stream, peer)) = listener.accept() else { return };
        let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) else {
            continue;
        };
        gate.tasks.spawn_local(serve(stream, canonical(peer), permit));
    }
}

/// accept(2): these belong to the connection that was about to be accepted, and the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

fn word(error: &io::Error) -> &'static str {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOMEM: i32 = 12;
    const ENOBUFS: i32 = 105;
    match error.raw_os_error() {
        Some(EMFILE | ENFILE) => "too-many-files",
        Some(ENOMEM | ENOBUFS) => "no-memory",
        _ => "other",
    }
}

/// An IPv4 peer of a dual-stack socket is `::ffff:a.b.c.d`; policy and logs know it as `a.b.c.d`.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
