//! The path from others towards the app, in packet order: [`captured`] (what capture redirected: apps without a sidecar,
//! and our own apps past theirs) and [`mesh`] (what sidecars send), then per stream [`request`] or [`tunnel`], each of
//! which asks [`authorize`] before a byte reaches the app.
//!
//! Refuses: callers that policy does not allow, plaintext and app TLS that the port's transport does not take,
//! addresses that are not this workload's, the proxy's own ports, internal headers that are not as they must be.

mod app;
pub mod authorize;
pub mod captured;
mod live;
mod matched;
pub mod mesh;
mod pin;
pub mod probe;
pub mod request;
mod spans;
mod told;
pub mod tunnel;
mod under_way;
mod waiting;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{ClientAuth, IdentityStore, ServerConfigs};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::flows::{Decisions, Flows, Shipper};
use crate::http::client::AppClient;
use crate::http::followed::Followed;
use crate::state::Reader;
use crate::tcp::DialOptions;
use crate::telemetry::{Edges, Metrics, RefusalLog, Tracer};
use crate::tls;

#[cfg(test)]
#[path = "cardinality_test.rs"]
mod cardinality_test;
#[cfg(test)]
#[path = "drain_test.rs"]
mod drain_test;
#[cfg(test)]
#[path = "ends_test.rs"]
mod ends_test;
#[cfg(test)]
#[path = "flows_test.rs"]
mod flows_test;
#[cfg(test)]
#[path = "hbone_peer_test.rs"]
mod hbone_peer_test;
#[cfg(test)]
#[path = "hostile_test.rs"]
mod hostile_test;
#[cfg(test)]
#[path = "http2_test.rs"]
mod http2_test;
#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
#[cfg(test)]
#[path = "idle_test.rs"]
mod idle_test;
#[cfg(test)]
#[path = "kept_test.rs"]
mod kept_test;
#[cfg(test)]
#[path = "left_test.rs"]
mod left_test;
#[cfg(test)]
#[path = "live_test.rs"]
mod live_test;
#[cfg(test)]
#[path = "meaning_test.rs"]
mod meaning_test;
#[cfg(test)]
#[path = "mesh_test.rs"]
mod mesh_test;
#[cfg(test)]
#[path = "message_test.rs"]
mod message_test;
#[cfg(test)]
#[path = "pair_test.rs"]
mod pair_test;
#[cfg(test)]
#[path = "raw_frames_test.rs"]
mod raw_frames_test;
#[cfg(test)]
#[path = "spans_bytes_test.rs"]
mod spans_bytes_test;
#[cfg(test)]
#[path = "spans_test.rs"]
mod spans_test;
#[cfg(test)]
#[path = "standing_test.rs"]
mod standing_test;
#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_test;
#[cfg(test)]
#[path = "told_test.rs"]
mod told_test;
#[cfg(test)]
#[path = "tunnel_test.rs"]
mod tunnel_test;
#[cfg(test)]
#[path = "unread_test.rs"]
mod unread_test;
#[cfg(test)]
#[path = "world_apps_test.rs"]
mod world_apps_test;
#[cfg(test)]
#[path = "world_test.rs"]
mod world_test;

/// The app is on this host: an answer to a connection attempt that takes longer is no answer.
const APP_DIAL_DEADLINE: Duration = Duration::from_secs(3);

/// What the inbound path is given.
pub struct Needs {
    /// This worker's view.
    pub state: Reader,
    pub identity: Arc<IdentityStore>,
    /// This worker's handle.
    pub metrics: Metrics,
    /// This worker's handle.
    pub tracer: Tracer,
    pub decisions: Arc<Decisions>,
    /// Where this worker's counts of decisions go.
    pub flows: Shipper,
    /// SO_MARK of our own connections, where capture exempts by mark.
    pub mark: Option<u32>,
    /// SO_MARK of connections to the app that speak from a caller's address; none where the host does not let us.
    pub source_mark: Option<u32>,
    /// The proxy's own listening ports: no peer may reach them through a tunnel.
    pub own_ports: Vec<u16>,
    /// Becomes true when the proxy stops: finish what is in flight, take nothing new.
    pub stop: watch::Receiver<bool>,
}

/// The inbound path of one worker.
pub struct Inbound {
    needs: Needs,
    app: Rc<AppClient>,
    server: ServerConfigs,
    revoked: Arc<tls::Revoked>,
    dial: DialOptions,
    log: RefusalLog,
    flows: Flows,
    edges: Edges,
    /// What its spans say again and again.
    blocks: spans::Blocks,
    live: Rc<live::Live>,
    followed: Rc<Followed<under_way::UnderWay>>,
}

impl Inbound {
    pub fn new(needs: Needs) -> Rc<Inbound> {
        let dial = DialOptions { mark: needs.mark, deadline: APP_DIAL_DEADLINE };
        let server = needs.identity.server_configs(tls::mesh::PROTOCOLS, ClientAuth::Required, false);
        let revoked = tls::Revoked::of(&needs.identity);
        let (app, log) = (AppClient::new(dial), RefusalLog::default());
        let (flows, edges) = (Flows::new(needs.flows.clone()), needs.metrics.edges());
        Rc::new_cyclic(|own| {
            let live = live::Live::new(own.clone());
            let (blocks, followed) = (spans::Blocks::default(), Rc::default());
            Inbound { app, server, revoked, dial, log, flows, edges, blocks, live, followed, needs }
        })
    }

    /// What this worker has counted.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// One connection that capture redirected, from its first byte to its end. `destination` is its original one.
    pub async fn captured(self: &Rc<Self>, stream: TcpStream, source: SocketAddr, destination: SocketAddr) {
        captured::serve(self, stream, source, destination).await;
    }

    /// One connection to the mesh port, from its handshake to its end.
    pub async fn mesh(self: &Rc<Self>, stream: TcpStream, source: SocketAddr) {
        mesh::serve(self, stream, source).await;
    }

    /// Connections to the app that are open now.
    pub fn app_connections(&self) -> usize {
        self.app.open()
    }
}
