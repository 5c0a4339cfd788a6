//! Keeps this worker's peers in order, once a second and whenever a list changed: lets go of connections that are no
//! longer in it, makes new ones before the old ones end and after they were lost, and closes what nobody used for long.
//! A request waits for a connection only at the first contact, or where the peer is gone.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::line::Local;
use super::peers::{Connection, PeerState};
use super::{Pool, dial};

const LOOK: Duration = Duration::from_secs(1);
/// Changes come in crowds, one for each peer after a rotation: they are looked at together.
const SETTLE: Duration = Duration::from_millis(20);

/// Runs as long as the pool is there.
pub(super) async fn keep(pool: Weak<Pool>, mut changed: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            told = changed.changed() => {
                if told.is_err() {
                    return;
                }
                sleep(SETTLE).await;
            }
            () = sleep(LOOK) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.look();
    }
}

/// What is to be done about one peer.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// A connection is missing, or soon will be.
    Dial,
    /// Nobody used it for long.
    Forget,
}

impl Pool {
    fn look(self: &Rc<Self>) {
        let locals: Vec<Rc<Local>> = self.locals.borrow().values().map(Rc::clone).collect();
        locals.iter().for_each(|local| local.wanted.set(false));
        self.targets.borrow_mut().retain(|_, target| {
            // An endpoint that is in no snapshot any more is not called again: what is open may finish.
            let wanted = Arc::strong_count(&target.endpoint) > 1;
            target.local.wanted.set(target.local.wanted.get() || wanted);
            wanted
        });
        let (unix, generation) = (self.peers.identity.now().as_secs(), self.peers.generation());
        for local in locals {
            local.refresh(self);
            match self.decide(&local, unix, generation) {
                Todo::Nothing => {}
                Todo::Dial => {
                    if dial::begin(self, &local.peer).is_ok() {
                        self.metrics.mesh_event("warmed");
                    }
                }
                Todo::Forget => self.forget(&local),
            }
        }
    }

    fn decide(&self, local: &Rc<Local>, unix: u64, generation: u64) -> Todo {
        let now = Instant::now();
        let is_ended = |connection: &Connection| connection.link.is_closed() || connection.link.until < unix;
        if local.peer.lock().connections.iter().any(is_ended) {
            local.peer.change(|state| state.connections.retain(|connection| !is_ended(connection)));
            self.peers.tell();
        }
        let mut state = local.peer.lock();
        if local.used.take() {
            state.last_used = now;
        }
        let idle = now.saturating_duration_since(state.last_used) >= self.peers.limits.warm_for;
        if idle && state.is_quiet() {
            return Todo::Forget;
        }
        let lasting =
            |connection: &Connection| connection.link.generation == generation && connection.link.successor_at > unix;
        let due = state.retry_at.is_none_or(|at| at <= now);
        if local.wanted.get() && !idle && due && state.dialling.is_none() && !state.connections.iter().any(lasting) {
            return Todo::Dial;
        }
        Todo::Nothing
    }

    fn forget(&self, local: &Rc<Local>) {
        self.targets.borrow_mut().retain(|_, target| !Rc::ptr_eq(&target.local, local));
        self.locals.borrow_mut().remove(&Arc::as_ptr(&local.peer).addr());
        if !local.peer.lock().connections.is_empty() {
            self.metrics.mesh_event("idle-closed");
        }
        self.peers.forget(&local.peer.key);
    }
}

impl PeerState {
    fn is_quiet(&self) -> bool {
        let busy = |connection: &Connection| connection.link.busy.load(std::sync::atomic::Ordering::Relaxed) > 0;
        self.dialling.is_none() && !self.connections.iter().any(busy)
    }
}
