//! The path from the app towards others, in packet order: [`connection`] (what capture redirected: whom the app called, and
//! in what language), then per request [`request`] or for the rest [`stream`], both over a mesh connection of [`pool`].
//!
//! What leaves the mesh is asked of [`egress`] first.
//!
//! Refuses: addresses inside the mesh's ranges that nobody knows, peers that are not who they should be, and traffic
//! that the callee's transport would refuse, before a byte of it leaves the host.

pub mod balance;
mod carried;
pub mod connection;
mod denied;
mod departure;
mod egress;
mod exchange;
mod external;
mod first;
mod going;
mod hop;
mod leads;
mod pin;
pub mod pool;
mod postgres;
pub mod request;
mod spans;
pub mod stage;
mod stream;
mod told;
mod tries;
mod tunnel;
mod under_way;
mod waiting;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::IdentityStore;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::dns::Resolver;
use crate::flows::{Decisions, Flows, Shipper};
use crate::http::client::AppClient;
use crate::http::followed::Followed;
use crate::reason::Reason;
use crate::state::{Destination, Reader};
use crate::tcp::DialOptions;
use crate::telemetry::{Direction, Edges, Metrics, RefusalLog, Tracer};
use pool::{Peers, Pool};

#[cfg(test)]
#[path = "balance_test.rs"]
mod balance_test;
#[cfg(test)]
#[path = "size_test.rs"]
mod size_test;

/// A connection attempt across a link: three SYNs.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// What the outbound path is given.
pub struct Needs {
    /// This worker's view.
    pub state: Reader,
    pub identity: Arc<IdentityStore>,
    /// The mesh connections of all workers.
    pub peers: Arc<Peers>,
    /// This worker's handle.
    pub metrics: Metrics,
    /// This worker's handle.
    pub tracer: Tracer,
    /// Where each refusal is kept with its id.
    pub decisions: Arc<Decisions>,
    /// Where what left the mesh is counted.
    pub flows: Shipper,
    /// SO_MARK of our own connections, where capture exempts by mark.
    pub mark: Option<u32>,
    /// Becomes true when the proxy stops: finish what is in flight, take nothing new.
    pub stop: watch::Receiver<bool>,
}

/// The outbound path of one worker.
pub struct Outbound {
    needs: Needs,
    pool: Rc<Pool>,
    /// For names that EgressPolicies allow.
    resolver: Resolver,
    /// TLS that is begun towards services outside.
    originations: external::Originations,
    /// Towards endpoints without a sidecar.
    plain: Rc<AppClient>,
    dial: DialOptions,
    /// Whose turn it is, for balancing.
    turn: Cell<usize>,
    /// Requests so far.
    requests: Cell<u64>,
    /// Tries of those that may yet be worth keeping.
    tries: tries::Tries,
    followed: Rc<Followed<under_way::UnderWay>>,
    /// Who speaks first where.
    verdicts: first::Verdicts,
    log: RefusalLog,
    flows: Flows,
    edges: Edges,
    /// What its spans say again and again.
    blocks: spans::Blocks,
}

impl Outbound {
    pub fn new(needs: Needs) -> Rc<Outbound> {
        let dial = DialOptions { mark: needs.mark, deadline: DIAL_DEADLINE };
        let pool = Pool::new(Arc::clone(&needs.peers), needs.metrics.clone(), dial);
        let (turn, verdicts, log) = (Cell::new(0), first::Verdicts::default(), RefusalLog::default());
        let flows = Flows::new(needs.flows.clone());
        let (resolver, originations) = (Resolver::new(dial), external::Originations::default());
        Rc::new(Outbound {
            pool,
            resolver,
            originations,
            plain: AppClient::new(dial),
            dial,
            turn,
            requests: Cell::new(0),
            tries: tries::Tries::default(),
            followed: Rc::default(),
            verdicts,
            log,
            flows,
            edges: needs.metrics.edges(),
            blocks: spans::Blocks::default(),
            needs,
        })
    }

    /// One connection of the app, from its first byte to its end. `destination` is where the app wanted to go.
    pub fn captured(
        self: &Rc<Self>,
        app: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> impl Future<Output = ()> {
        connection::serve(self, app, source, destination)
    }

    /// What left the mesh by this worker.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Mesh connections that this worker drives now.
    pub fn mesh_connections(&self) -> usize {
        self.pool.open()
    }

    #[cfg(test)]
    pub(crate) fn mesh_streams(&self) -> usize {
        self.pool.streams()
    }

    /// Answers that are followed now, and the places that there are.
    #[cfg(test)]
    pub(crate) fn followed(&self) -> (usize, usize) {
        (self.followed.count(), self.followed.room())
    }

    fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    fn next_request(&self) -> u64 {
        let number = self.requests.get();
        self.requests.set(number.wrapping_add(1));
        number
    }

    /// Which share of new traces is recorded, where the service that is called says so.
    fn ratio_of(&self, destination: SocketAddr) -> Option<u32> {
        match self.needs.state.snapshot().destination(destination) {
            Destination::Service { port, .. } => port.options.sampling_millionths,
            _ => None,
        }
    }

    /// Whose turn comes next, without taking it.
    fn coming_turn(&self) -> usize {
        self.turn.get()
    }

    /// A refusal: counted, and said in the log as far as that is not flooded.
    fn refuse(&self, reason: Reason, destination: SocketAddr, detail: &str) -> Reason {
        self.needs.metrics.refused(reason, Direction::Outbound);
        if let Some(left_out) = self.log.may_say(reason) {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::info!(reason = reason.word(), %destination, left_out, "refused: {detail}");
        }
        reason
    }
}
