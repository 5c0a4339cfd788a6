//! Where the proxy listens.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
use super::field::{Count, Field, ListenAddress, take};

/// The proxy's ports. Each default is the port's number in DESIGN.md on all addresses of both families; port 0 lets the
/// kernel choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where the app's connections are redirected to. Default: 15001.
    pub outbound: SocketAddr,
    /// Where others' connections are redirected to. Default: 15006.
    pub inbound: SocketAddr,
    /// Where peers connect. Default: 15008.
    pub mesh: SocketAddr,
    /// `/metrics` and nothing else. Default: 15020.
    pub metrics: SocketAddr,
    /// Readiness and nothing else. Default: 15021.
    pub readiness: SocketAddr,
    /// Connections that all workers together take up at once; more wait in the kernel. Default: 100,000.
    pub max_connections: usize,
    /// How long open connections may go on when the proxy is told to stop. Default: 30 s.
    pub drain: Duration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ListenFile {
    outbound: Field<ListenAddress>,
    inbound: Field<ListenAddress>,
    mesh: Field<ListenAddress>,
    metrics: Field<ListenAddress>,
    readiness: Field<ListenAddress>,
    max_connections: Field<Count>,
    drain: Field<Duration>,
}

impl ListenFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Listen {
        let mut on = |field, name, port| {
            let default = || ListenAddress((Ipv6Addr::UNSPECIFIED, port).into());
            take(field, name, default, problems).0
        };
        Listen {
            outbound: on(self.outbound, "listen.outbound", 15001),
            inbound: on(self.inbound, "listen.inbound", 15006),
            mesh: on(self.mesh, "listen.mesh", 15008),
            metrics: on(self.metrics, "listen.metrics", 15020),
            readiness: on(self.readiness, "listen.readiness", 15021),
            max_connections: take(self.max_connections, "listen.maxConnections", || Count(100_000), problems).0,
            drain: take(self.drain, "listen.drain", || Duration::from_secs(30), problems),
        }
    }
}
