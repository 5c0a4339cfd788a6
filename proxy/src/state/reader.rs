//! The snapshot as one worker reads it: the same until another is published, and then the next one, at the cost of one
//! atomic load. A worker's copies count their references for themselves, so that no request makes workers pull one cache
//! line to and fro.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::{Mesh, State};

/// One worker's view of the state. A worker without traffic keeps the snapshot that it used last, and only that one.
pub struct Reader {
    state: Arc<State>,
    last: RefCell<Seen>,
}

struct Seen {
    /// How often had been published when it was taken, or less: then it is only taken again.
    published: u64,
    snapshot: Snapshot,
}

/// One snapshot, in the hands of one worker.
#[derive(Debug, Clone)]
#[expect(clippy::redundant_allocation, reason = "the worker's count must not be the one that all threads share")]
pub struct Snapshot(Rc<Arc<Mesh>>);

impl Deref for Snapshot {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.0
    }
}

impl Snapshot {
    /// Whether nothing was published between the two: what was looked up in one holds in the other.
    pub fn is(&self, other: &Snapshot) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// To know it by, when it is gone as well: marks of two are never the same.
    pub fn mark(&self) -> Mark {
        Mark(Rc::downgrade(&self.0))
    }
}

/// Which snapshot something was made of; holds none of it.
#[derive(Debug, Clone)]
pub struct Mark(Weak<Arc<Mesh>>);

impl PartialEq for Mark {
    fn eq(&self, other: &Mark) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Seen {
    fn now(state: &State) -> Seen {
        // In this order: what is published in between is seen as new at the next look.
        let published = state.publications();
        Seen { published, snapshot: Snapshot(Rc::new(state.snapshot())) }
    }
}

impl Reader {
    pub fn new(state: Arc<State>) -> Reader {
        Reader { last: RefCell::new(Seen::now(&state)), state }
    }

    /// What every worker reads.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// One per decision.
    pub fn snapshot(&self) -> Snapshot {
        let mut last = self.last.borrow_mut();
        if last.published != self.state.publications() {
            *last = Seen::now(&self.state);
        }
        last.snapshot.clone()
    }

    /// [`State::resolve`], in this worker's view.
    pub async fn resolve(&self, ip: IpAddr) -> Snapshot {
        self.state.resolve(ip).await;
        self.snapshot()
    }

    /// [`State::subscribe`].
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.state.subscribe()
    }
}
