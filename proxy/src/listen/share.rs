//! Mesh connections are few, live for hours and carry thousands of streams: where the kernel puts each by chance, one
//! worker may get all. So each goes to the least loaded worker when it is accepted, by a bounded queue between the two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Permit;
use crate::telemetry::Metrics;

/// Connections handed to a worker that it has not taken up. A worker that is so far behind gets no more.
const QUEUE: usize = 256;
/// A connection weighs as much as so many streams: it will have some, and ties must not all go to one worker.
const CONNECTION: usize = 4;

/// One worker's end.
#[derive(Debug)]
pub struct Share {
    worker: usize,
    queues: Vec<mpsc::Sender<Handed>>,
    loads: Arc<[Load]>,
    metrics: Metrics,
}

/// What others hand to a worker. Ends when all their [`Share`]s are gone.
#[derive(Debug)]
pub struct Received(mpsc::Receiver<Handed>);

/// Connections that a worker was given. Apart from its neighbours' by two cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load(AtomicUsize);

/// A connection's weight on its worker, for as long as it lives.
#[derive(Debug)]
pub struct Weight {
    loads: Arc<[Load]>,
    worker: usize,
}

/// A connection on its way to another worker.
#[derive(Debug)]
struct Handed {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    permit: Permit,
    weight: Weight,
}

/// A connection that this worker serves.
#[derive(Debug)]
pub struct Served {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Kept as long as the connection.
    pub held: (Permit, Weight),
}

/// The ends of `workers` workers, in their order.
pub fn shares(workers: usize, metrics: &Metrics) -> Vec<(Share, Received)> {
    let loads: Arc<[Load]> = (0..workers).map(|_| Load::default()).collect();
    let (queues, received): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(QUEUE)).unzip();
    let share = |worker| Share {
        worker,
        queues: queues.clone(),
        loads: Arc::clone(&loads),
        metrics: metrics.for_worker(worker),
    };
    received.into_iter().enumerate().map(|(worker, received)| (share(worker), Received(received))).collect()
}

impl Share {
    /// Gives an accepted connection to the least loaded worker. `Some`: that is this one, or the other could not take it.
    pub fn keep_or_hand(&self, stream: TcpStream, peer: SocketAddr, permit: Permit) -> Option<Served> {
        let to = self.least_loaded();
        let weight = Weight::on(&self.loads, to);
        if to == self.worker {
            self.metrics.mesh_event("kept");
            return Some(Served { stream, peer, held: (permit, weight) });
        }
        // Off this runtime's reactor; a socket that cannot be taken off it is broken.
        let stream = stream.into_std().ok()?;
        let Err(refused) = self.queues[to].try_send(Handed { stream, peer, permit, weight }) else {
            self.metrics.mesh_event("handed");
            return None;
        };
        // Full, or that worker has ended.
        self.metrics.mesh_event("handed-back");
        let (mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed)) = refused;
        handed.taken_up(&self.loads, self.worker)
    }

    /// This worker where none is less loaded: it has the socket in its hands.
    fn least_loaded(&self) -> usize {
        let load = |worker: &usize| {
            let connections = self.loads[*worker].0.load(Relaxed);
            CONNECTION * connections + self.metrics.served_streams(*worker)
        };
        let least = (0..self.loads.len()).min_by_key(load).unwrap_or(self.worker);
        if load(&least) < load(&self.worker) { least } else { self.worker }
    }
}

impl Received {
    /// The next connection from another worker; `None` when no more can come.
    pub async fn next(&mut self) -> Option<Served> {
        loop {
            let handed = self.0.recv().await?;
            let (loads, worker) = (Arc::clone(&handed.weight.loads), handed.weight.worker);
            if let Some(served) = handed.taken_up(&loads, worker) {
                return Some(served);
            }
        }
    }
}

impl Handed {
    /// Onto this worker's reactor. It was non-blocking before, and stays so.
    fn taken_up(self, loads: &Arc<[Load]>, worker: usize) -> Option<Served> {
        let stream = TcpStream::from_std(self.stream).ok()?;
        Some(Served { stream, peer: self.peer, held: (self.permit, Weight::on(loads, worker)) })
    }
}

impl Weight {
    fn on(loads: &Arc<[Load]>, worker: usize) -> Weight {
        loads[worker].0.fetch_add(1, Relaxed);
        Weight { loads: Arc::clone(loads), worker }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.loads[self.worker].0.fetch_sub(1, Relaxed);
    }
}
