//! The way to the control plane: TCP, TLS 1.3, gRPC. The server must be the control plane of the expected trust domain
//! under the expected roots; nothing else on that address is spoken to.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_certs::{
    Clock as _, ExpectedPeer, IdentityError, IdentityStore, PeerError, SpiffeId, SystemClock, TrustBundle,
    WorkloadIdentity, pem,
};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::access_client::AccessClient;
use isthmus_proto::admin::v1::admin_client::AdminClient;
use isthmus_proto::admin::v1::authority_client::AuthorityClient;
use isthmus_proto::admin::v1::live_client::LiveClient;
use isthmus_proto::admin::v1::policy_client::PolicyClient;
use isthmus_proto::admin::v1::resources_client::ResourcesClient;
use isthmus_proto::admin::v1::traces_client::TracesClient;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::failure::Failure;
use crate::operator::{Operator, OperatorArgs};

/// Of one answer of the control plane, which is who its certificate says.
const MAX_ANSWER: usize = 512 << 20;

/// Client commands wait for one answer at a time: one thread is enough.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::plain(format!("cannot start: {e}")))?.block_on(work)
}

/// What the proxies of a large mesh are told, in one answer.
const MOST_VIEWS: usize = 64 << 20;

/// The admin port, spoken to as the operator.
pub(crate) struct Admin {
    client: AdminClient<Channel>,
    limit: Duration,
}

impl Admin {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        // An answer names every resource of a large apply, or holds all that is stored.
        let client = AdminClient::new(operator_channel(args).await?).max_decoding_message_size(MAX_ANSWER);
        Ok(Self { client, limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut AdminClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for what concerns identities and who signs them.
pub(crate) struct Authority {
    client: AuthorityClient<Channel>,
    limit: Duration,
}

impl Authority {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        Ok(Self { client: AuthorityClient::new(operator_channel(args).await?), limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut AuthorityClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for who may do what.
pub(crate) struct Access {
    client: AccessClient<Channel>,
    limit: Duration,
}

impl Access {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        Ok(Self { client: AccessClient::new(operator_channel(args).await?), limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut AccessClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for what was decided and what would be.
pub(crate) struct Policy {
    client: PolicyClient<Channel>,
    limit: Duration,
}

impl Policy {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        let client = PolicyClient::new(operator_channel(args).await?).max_decoding_message_size(MOST_VIEWS);
        Ok(Self { client: client.max_encoding_message_size(MOST_VIEWS), limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut PolicyClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for what was changed and the way back.
pub(crate) struct Resources {
    client: ResourcesClient<Channel>,
    limit: Duration,
}

impl Resources {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        let client = ResourcesClient::new(operator_channel(args).await?).max_decoding_message_size(MOST_VIEWS);
        Ok(Self { client, limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut ResourcesClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for the last traces.
pub(crate) struct Traces {
    client: TracesClient<Channel>,
    limit: Duration,
}

impl Traces {
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        let client = TracesClient::new(operator_channel(args).await?).max_decoding_message_size(MOST_VIEWS);
        Ok(Self { client, limit: args.request_timeout })
    }

    /// One request, within the operator's time limit.
    pub(crate) async fn call<T>(
        &mut self,
        request: impl AsyncFnOnce(&mut TracesClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        within(self.limit, request(&mut self.client)).await
    }
}

/// The same port, for what passes now. Without a limit: it goes on until somebody has seen enough.
pub(crate) async fn look(
    args: &OperatorArgs,
    request: wire::LookRequest,
) -> Result<Streaming<wire::LookEvent>, Failure> {
    let mut client = LiveClient::new(operator_channel(args).await?).max_decoding_message_size(MOST_VIEWS);
    within(args.request_timeout, client.look(request)).await
}

async fn operator_channel(args: &OperatorArgs) -> Result<Channel, Failure> {
    channel_of(&Operator::find(args)?, args.request_timeout).await
}

/// The admin port, with these credentials.
pub(crate) async fn channel_of(operator: &Operator, limit: Duration) -> Result<Channel, Failure> {
    let tls = operator_tls(operator)?;
    let stream = dial(&operator.address, tls, limit).await.map_err(|e| e.for_operator(operator))?;
    channel(stream).await
}

pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Failure::timed_out(
            format!("the control plane did not answer within {limit:?}"),
            "ask again, or give it longer with --request-timeout",
        )),
    }
}

fn operator_tls(operator: &Operator) -> Result<Arc<ClientConfig>, Failure> {
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(
            format!("{}: {what}: {error}", operator.path.display()),
            "copy operator.yaml again from the control plane's state directory, unchanged",
        )
    };
    let roots = pem::parse(operator.roots.as_bytes()).map_err(|e| broken("roots", &e))?.certificates;
    let chain = pem::parse(operator.certificate.as_bytes()).map_err(|e| broken("certificate", &e))?.certificates;
    let key = pem::parse(operator.key.as_bytes()).map_err(|e| broken("key", &e))?.key;
    let key = key.ok_or_else(|| broken("key", &"there is none"))?;
    let bundle = TrustBundle::from_ders(&roots).map_err(|e| broken("roots", &e))?;
    let store = IdentityStore::new(operator.trust_domain.clone(), Arc::new(SystemClock));
    let identity = WorkloadIdentity::new(chain, key, bundle, store.now()).map_err(|e| match e {
        IdentityError::Certificate(dates @ (PeerError::Expired | PeerError::NotYetValid)) => {
            outside_dates(operator, dates)
        }
        other => broken("certificate", &other),
    })?;
    store.replace(identity).map_err(|e| broken("certificate", &e))?;
    let control = SpiffeId::control_plane(&operator.trust_domain);
    Ok(store.client_config(&[b"h2"], ExpectedPeer::AnyOf(vec![control])))
}

/// Of one of the two, the clock or the file, something is wrong; the clock is the likelier.
fn outside_dates(operator: &Operator, dates: PeerError) -> Failure {
    let now_ms = SystemClock.now_ms();
    let now = jiff::Timestamp::from_millisecond(now_ms).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let what = if dates == PeerError::Expired { "has ended" } else { "has not begun" };
    let now = now.unwrap_or_default();
    Failure::new(
        format!("{}: the certificate in it {what}, by this machine's clock ({now})", operator.path.display()),
        "if this clock is wrong, set it; if it is right, copy operator.yaml again from the control plane's state directory",
    )
}

/// Why there is no connection. Whose fault that is depends on who asked.
#[derive(Debug)]
pub(crate) enum DialError {
    /// DNS or TCP: nobody answers there.
    Unreachable(io::Error),
    TimedOut(Duration),
    /// Somebody answered, and is not who was expected; or does not take us for who we are.
    Peer(PeerError),
    /// TLS broke for another reason.
    Tls(io::Error),
}

/// Connects and shakes hands, all within `limit`.
pub(crate) async fn dial(
    address: &str,
    tls: Arc<ClientConfig>,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let work = async {
        let tcp = TcpStream::connect(address).await.map_err(DialError::Unreachable)?;
        // Failing to turn Nagle off costs milliseconds, not correctness.
        let _ = tcp.set_nodelay(true);
        let stream = TlsConnector::from(tls).connect(server_name(address), tcp).await.map_err(tls_error)?;
        Ok(stream)
    };
    timeout(limit, work).await.unwrap_or(Err(DialError::TimedOut(limit)))
}

/// Only for SNI: our verifiers look at the SPIFFE id and never at the name.
fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let fallback = || ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| fallback())
}

fn tls_error(error: io::Error) -> DialError {
    match PeerError::from_io(&error) {
        Some(peer) => DialError::Peer(peer),
        None => DialError::Tls(error),
    }
}

impl DialError {
    /// Of somebody who has no certificate yet, and knows the control plane by its root.
    pub(crate) fn for_stranger(self, address: &str) -> Failure {
        match self {
            Self::Unreachable(e) => {
                Failure::new(format!("no control plane at {address}: {e}"), "check the address, or give --address")
            }
            Self::TimedOut(limit) => Failure::timed_out(
                format!("no answer from {address} within {limit:?}"),
                "check the route and the firewall to the control plane's operator port (15013)",
            ),
            Self::Peer(reason) => Failure::new(
                format!("{address} is not the control plane that the token is of: {reason}; nothing was sent"),
                "if the control plane was set up anew, get a new token; if not, find out who answers there",
            ),
            Self::Tls(e) => Failure::new(
                format!("{address} broke the TLS handshake: {e}"),
                "check that this is the operator port (15013)",
            ),
        }
    }

    fn for_operator(self, operator: &Operator) -> Failure {
        let (address, file) = (&operator.address, operator.path.display());
        match self {
            Self::Unreachable(e) => Failure::new(
                format!("no control plane at {address}: {e}"),
                "check that it runs, that this address leads to its operator port (15013), or give --address",
            ),
            Self::TimedOut(limit) => Failure::timed_out(
                format!("no answer from {address} within {limit:?}"),
                "check the route and the firewall to the control plane's operator port (15013)",
            ),
            Self::Peer(reason) => Failure::new(
                format!("{address} is not the control plane of {file}: {reason}"),
                "if the control plane was set up anew, copy its new operator.yaml; if it was not, find out who answers there",
            ),
            Self::Tls(e) => Failure::new(
                format!("{address} broke the TLS handshake: {e}"),
                format!(
                    "check that this is the operator port (15013), and that {file} is of this control plane and has not expired"
                ),
            ),
        }
    }
}

/// gRPC over a stream that is connected already: there is one, so a second connection is an error, not a retry.
pub(crate) async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel, Failure> {
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let taken = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { taken }
    });
    let endpoint = Endpoint::from_static("http://control.isthmus");
    endpoint.connect_with_connector(once).await.map_err(|e| Failure::plain(format!("gRPC could not start: {e}")))
}

/// What the control plane's "no" means to the person who asked.
pub(crate) fn refused(status: &Status) -> Failure {
    let said = status.message();
    match status.code() {
        Code::NotFound | Code::AlreadyExists => Failure::plain(said),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            Failure::new(said, "correct what it names; nothing was changed")
        }
        // It says which role is missing, and whom to ask.
        Code::PermissionDenied => Failure::plain(said),
        Code::Unauthenticated => Failure::new(
            format!("the control plane does not accept this operator: {said}"),
            "`isthmus login`, or the operator.yaml of this control plane's present state directory",
        ),
        Code::Unimplemented => Failure::new(
            "the control plane does not know this request on this port",
            "check that the address is that of the operator port (15013); else it is older than this command",
        ),
        Code::Aborted => Failure::new(
            format!("somebody else changed something meanwhile: {said}"),
            "look at the present state and try again; nothing was changed",
        ),
        Code::ResourceExhausted => {
            Failure::new(format!("the control plane is at a limit: {said}"), "try again in a moment")
        }
        Code::DeadlineExceeded => Failure::timed_out(said, "ask again, or give it longer"),
        code => Failure::new(
            format!("the control plane broke off ({code:?}): {said}"),
            "check that it runs; ask again: a change that was acknowledged is stored, one that was not may be",
        ),
    }
}

#[cfg(test)]
#[path = "connect_test.rs"]
mod connect_test;
