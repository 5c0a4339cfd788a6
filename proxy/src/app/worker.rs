//! The threads that carry traffic. Each has a runtime of one thread, its own listeners and its own pools, and shares
//! nothing with the others on the data path.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::inbound::{self, Inbound};
use crate::listen::{Bound, Gate, Permit, Received, Served, Share, accept, original_destination, shares};
use crate::outbound::{self, Outbound};
use crate::reason::Reason;
use crate::state::Reader;
use crate::tcp;
use crate::telemetry::{Direction, Metrics};

use super::{Listening, Parts, RunError, mark};

/// What a worker needs beyond its drain to put its last bytes on the wire.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Tasks that run before the sockets are looked at again, though some are still ready. A look costs a system call; a
/// task of the path some 10 µs, so that a new event waits 2 ms at worst.
const TASKS_BETWEEN_LOOKS: u32 = 192;

/// All workers.
pub(super) struct Workers {
    /// One message from each thread that ends.
    ended: mpsc::Receiver<()>,
    running: usize,
    /// True: finish what is in flight.
    stop: watch::Sender<bool>,
    accepting: CancellationToken,
    /// Held by each worker that still has connections: streams of one may run on a mesh connection of another, so that
    /// none ends before all have finished.
    serving: TaskTracker,
    /// Cancelled with everything else: what is not finished by then is cut.
    cut: CancellationToken,
}

/// One worker's share.
struct Worker {
    index: usize,
    parts: Arc<Parts>,
    /// Outbound, inbound, mesh.
    listeners: [StdListener; 3],
    own_ports: Vec<u16>,
    stop: watch::Receiver<bool>,
    /// Accepted mesh connections: given and taken.
    mesh: (Share, Received),
    accepting: CancellationToken,
    serving: TaskTrackerToken,
    cut: CancellationToken,
    _ended: Ended,
}

/// Says that its thread has ended, however it did.
struct Ended(mpsc::Sender<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        // There is room for each worker's message, and nobody listens any more once that is of no interest.
        let _ = self.0.try_send(());
    }
}

impl Workers {
    pub(super) fn start(parts: &Arc<Parts>, bound: [Bound; 3], listening: Listening) -> Result<Workers, RunError> {
        let [outbound, inbound, mesh] = bound.map(|bound| bound.listeners);
        let running = outbound.len();
        let (sender, ended) = mpsc::channel(running);
        let (stop, accepting, cut) = (watch::Sender::new(false), CancellationToken::new(), CancellationToken::new());
        let workers = Workers { ended, running, stop, accepting, serving: TaskTracker::new(), cut };
        let listeners = outbound.into_iter().zip(inbound).zip(mesh);
        let shared = listeners.zip(shares(running, &parts.metrics));
        for (index, (((outbound, inbound), listens_mesh), mesh)) in shared.enumerate() {
            let worker = Worker {
                index,
                parts: parts.clone(),
                listeners: [outbound, inbound, listens_mesh],
                mesh,
                own_ports: listening.ports(),
                stop: workers.stop.subscribe(),
                accepting: workers.accepting.clone(),
                serving: workers.serving.token(),
                cut: workers.cut.clone(),
                _ended: Ended(sender.clone()),
            };
            let named = thread::Builder::new().name(format!("worker-{index}"));
            named.spawn(move || worker.run()).map_err(RunError::Thread)?;
        }
        Ok(workers)
    }

    /// Resolves when a worker has ended, which none should.
    pub(super) async fn one_ended(&mut self) {
        if self.ended.recv().await.is_some() {
            self.running -= 1;
        }
    }

    /// Nothing new is taken; what is in flight may finish within `limit`. Returns when all threads have ended.
    pub(super) async fn drain(mut self, limit: Duration) {
        self.accepting.cancel();
        self.stop.send_replace(true);
        self.serving.close();
        let _ = timeout(limit, self.serving.wait()).await;
        self.cut.cancel();
        let deadline = Instant::now() + LAST_BYTES;
        while self.running > 0 && timeout_at(deadline, self.ended.recv()).await.is_ok() {
            self.running -= 1;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.accepting.cancel();
        self.cut.cancel();
    }
}

impl Worker {
    fn run(self) {
        // A local runtime and no LocalSet: that has a queue and a tick of its own inside the runtime's, and each wake-up
        // passes both.
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all().event_interval(TASKS_BETWEEN_LOOKS);
        match runtime.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => tracing::error!(worker = self.index, %error, "a worker has no runtime"),
        }
    }

    async fn serve(self) {
        let metrics = self.parts.metrics.for_worker(self.index);
        let (outbound, inbound) = (self.outbound(&metrics), self.inbound(&metrics));
        let permits = self.parts.config.listen.max_connections.div_ceil(self.parts.config.workers);
        let tasks = TaskTracker::new();
        // Each listener has permits of its own: a flood on one must not stop the others.
        let gate = || Gate {
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            tasks: tasks.clone(),
            stop: self.accepting.clone(),
            metrics: metrics.clone(),
        };
        let registered = self.listeners.map(TcpListener::from_std);
        let [Ok(from_app), Ok(from_others), Ok(from_mesh)] = registered else {
            return tracing::error!(worker = self.index, "a worker's listeners cannot be registered");
        };
        let counting = (inbound.clone(), outbound.clone());
        let shipping = tokio::task::spawn_local(async move {
            tokio::join!(counting.0.flows().keep_shipping(), counting.1.flows().keep_shipping());
        });
        let (last_in, last_out) = (inbound.clone(), outbound.clone());
        let (to_outbound, to_inbound) = (outbound, inbound.clone());
        let (count_outbound, count_inbound) = (metrics.clone(), metrics.clone());
        let (share, received) = self.mesh;
        let (to_mesh, share) = (inbound.clone(), Rc::new(share));
        tokio::join!(
            accept(from_app, gate(), move |stream, peer, permit| {
                serve_outbound(to_outbound.clone(), &count_outbound, stream, peer, permit)
            }),
            accept(from_others, gate(), move |stream, peer, permit| {
                serve_inbound(to_inbound.clone(), count_inbound.clone(), stream, peer, permit)
            }),
            accept(from_mesh, gate(), move |stream, peer, permit| {
                share_out(to_mesh.clone(), share.clone(), stream, peer, permit)
            }),
            take_over(inbound, received, &tasks),
        );
        tasks.close();
        tokio::select! {
            () = tasks.wait() => {}
            () = self.cut.cancelled() => tracing::warn!(worker = self.index, open = tasks.len(), "connections cut at the end of the drain"),
        }
        shipping.abort();
        last_in.flows().ship();
        last_out.flows().ship();
        drop(last_out);
        // The mesh connections that others borrow live here.
        drop(self.serving);
        self.cut.cancelled().await;
    }

    fn outbound(&self, metrics: &Metrics) -> Rc<Outbound> {
        Outbound::new(outbound::Needs {
            state: Reader::new(self.parts.state.clone()),
            identity: self.parts.identities.clone(),
            peers: self.parts.peers.clone(),
            metrics: metrics.clone(),
            tracer: self.parts.tracer.for_worker(metrics),
            decisions: self.parts.decisions.clone(),
            flows: self.parts.flows.clone(),
            mark: mark(&self.parts.config),
            stop: self.stop.clone(),
        })
    }

    fn inbound(&self, metrics: &Metrics) -> Rc<Inbound> {
        Inbound::new(inbound::Needs {
            state: Reader::new(self.parts.state.clone()),
            identity: self.parts.identities.clone(),
            metrics: metrics.clone(),
            tracer: self.parts.tracer.for_worker(metrics),
            decisions: self.parts.decisions.clone(),
            flows: self.parts.flows.clone(),
            mark: mark(&self.parts.config),
            source_mark: self.parts.source_mark,
            own_ports: self.own_ports.clone(),
            stop: self.stop.clone(),
        })
    }
}

/// From a peer: on this worker or on the one that has least to do.
async fn share_out(to: Rc<Inbound>, share: Rc<Share>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let served = share.keep_or_hand(stream, peer, permit);
    // Others wait until nobody can hand them anything any more.
    drop(share);
    if let Some(Served { stream, peer, held }) = served {
        to.mesh(stream, peer).await;
        drop(held);
    }
}

/// What other workers accepted for this one, until all of them accept no more.
async fn take_over(to: Rc<Inbound>, mut received: Received, tasks: &TaskTracker) {
    while let Some(Served { stream, peer, held }) = received.next().await {
        let to = Rc::clone(&to);
        tasks.spawn_local(async move {
            to.mesh(stream, peer).await;
            drop(held);
        });
    }
}

/// From the app: where did it want to go?
///
/// No `async fn`, here and below: one keeps each argument twice, as it came and as it is used (rust-lang/rust#62958), for
/// as long as the connection lives.
fn serve_outbound(
    to: Rc<Outbound>,
    metrics: &Metrics,
    stream: TcpStream,
    peer: SocketAddr,
    permit: Permit,
) -> impl Future<Output = ()> + use<> {
    let found = match original_destination(&stream) {
        Ok(destination) => Some((stream, destination)),
        Err(reason) => {
            refuse(metrics, Direction::Outbound, reason, stream, peer);
            None
        }
    };
    async move {
        if let Some((stream, destination)) = found {
            to.captured(stream, peer, destination).await;
        }
        drop(permit);
    }
}

/// From others, past their sidecars or without one: which port of the app did they mean?
async fn serve_inbound(to: Rc<Inbound>, metrics: Metrics, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    match original_destination(&stream) {
        Ok(destination) => to.captured(stream, peer, destination).await,
        Err(reason) => refuse(&metrics, Direction::Inbound, reason, stream, peer),
    }
    drop(permit);
}

fn refuse(metrics: &Metrics, direction: Direction, reason: Reason, stream: TcpStream, peer: SocketAddr) {
    metrics.refused(reason, direction);
    tracing::info!(reason = reason.word(), caller_address = %peer, direction = direction.word(), "refused: nothing but capture may use this port");
    tcp::reset(stream);
}
