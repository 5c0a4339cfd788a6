//! A control plane for linkerd2-proxy that knows one service: this program again, beside each of the two proxies.
//! `bench-peers __linkerd FILE`, where the file is a [`Mesh`]. It listens on loopback only, because there a proxy asks
//! its control plane without TLS. It answers what Linkerd's own control plane answers for a meshed Service with one
//! pod: every policy is sent once and then held, as nothing changes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

use linkerd2_proxy_api::destination::destination_server::DestinationServer;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPoliciesServer;
use rcgen::{Issuer, KeyPair};
use serde::{Deserialize, Serialize};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Response, Status};

/// The word in `argv[1]` by which this program knows that it is a control plane.
pub(super) const MARK: &str = "__linkerd";

/// All there is to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Mesh {
    /// Where it is asked.
    pub(super) listen: SocketAddr,
    /// What the app connects to.
    pub(super) service: SocketAddr,
    /// Where the service's only endpoint is.
    pub(super) endpoint: SocketAddr,
    /// Where the endpoint's proxy takes connections that say in a header where they go.
    pub(super) inbound_port: u16,
    /// Bytes that nobody looks into, instead of what is found out by looking.
    pub(super) opaque: bool,
    /// The one name that is certified: that of the proxy beside this.
    pub(super) certifies: String,
    /// The one who may call.
    pub(super) caller: String,
    /// Whose certificate the endpoint must show.
    pub(super) callee: String,
    pub(super) authority: PathBuf,
    pub(super) authority_key: PathBuf,
}

/// The four services that a proxy asks.
pub(super) struct Control {
    pub(super) mesh: Mesh,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

/// Of each service one handle, as tonic wants it.
pub(super) type Shared = std::sync::Arc<Control>;

/// Answers that do not end.
pub(super) type Held<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The one answer, and then nothing: a stream that ended would be asked for again.
pub(super) fn held<T: Send + 'static>(answer: T) -> Response<Held<T>> {
    Response::new(Box::pin(tokio_stream::once(Ok(answer)).chain(tokio_stream::pending())))
}

/// `None` in the ordinary case. Serves for ever otherwise.
pub(crate) fn entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    match serve(Path::new(&arguments.next().unwrap_or_default())) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{MARK}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn serve(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let control = Shared::new(Control::of(serde_json::from_slice(&fs::read(file)?)?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::builder()
        .add_service(IdentityServer::from_arc(Shared::clone(&control)))
        .add_service(DestinationServer::from_arc(Shared::clone(&control)))
        .add_service(InboundServerPoliciesServer::from_arc(Shared::clone(&control)))
        .add_service(OutboundPoliciesServer::from_arc(Shared::clone(&control)));
    Ok(runtime.block_on(server.serve(control.mesh.listen))?)
}

impl Control {
    pub(super) fn of(mesh: Mesh) -> Result<Self, Box<dyn std::error::Error>> {
        let key = KeyPair::from_pem(&fs::read_to_string(&mesh.authority_key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(&mesh.authority)?, key)?;
        Ok(Self { mesh, issuer })
    }
}

#[cfg(test)]
#[path = "control_test.rs"]
mod control_test;
