//! Endpoints without a sidecar: addresses written by hand, and services that are wherever a name leads (ExternalName). What
//! lies outside of the mesh's ranges is asked of the EgressPolicies like everything that leaves: naming it a service
//! opens nothing. Where the service asks for it, the app's plain bytes leave as TLS.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use http::Request;
use http::uri::{Authority, Uri};
use tokio::net::TcpStream;

use super::connection::{Callee, Route};
use super::going::Going;
use super::{Outbound, egress, leads};
use crate::detect::WireVersion;
use crate::http::body::Body;
use crate::http::client::AppClient;
use crate::reason::Reason;
use crate::state::egress::host_of;
use crate::state::policy::Arrived;
use crate::state::{External, TlsVersion};
use crate::tcp::dial;
use crate::tls::originate::{self, Inside, Origination, Settings};

/// TLS that is begun for services, one of each kind per worker.
#[derive(Default)]
pub(super) struct Originations(RefCell<HashMap<Settings, Begun>>);

type Begun = (Rc<Origination>, Rc<AppClient>);

/// How what leaves in TLS that we begin is seen.
const BEGUN: Arrived = Arrived::AppTls { version: Some(TlsVersion::V1_3), declared: true };

/// Kinds of TLS that a worker keeps; more begin anew.
const MAX_KINDS: usize = 256;

/// Why an endpoint without sidecar is not reached; the id where a policy said no.
pub(super) struct Unreached {
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) decision: Option<String>,
}

impl Route {
    pub(super) fn external(&self) -> Option<&Arc<External>> {
        match &self.to {
            Callee::Service(service) => service.external.as_ref(),
            Callee::Workload(_) => None,
        }
    }

    /// Whether a name says where it is, and no endpoint.
    pub(super) fn is_by_name(&self) -> bool {
        self.external().is_some_and(|external| external.name.is_some())
    }

    /// What the server of TLS is told, and has to prove.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.external()?.tls.as_ref().map(|tls| tls.server_name.as_str())
    }
}

impl Originations {
    fn of(&self, route: &Route, outbound: &Outbound) -> Option<Begun> {
        let tls = route.external()?.tls.as_ref()?;
        let settings = Settings {
            server_name: tls.server_name.clone(),
            roots_der: tls.roots_der.clone(),
            client: tls.client.clone(),
            only_tls13: route.port.as_ref().is_some_and(|port| port.min_tls_version == Some(TlsVersion::V1_3)),
        };
        let mut known = self.0.borrow_mut();
        if known.len() >= MAX_KINDS && !known.contains_key(&settings) {
            known.clear();
        }
        let made = known.entry(settings).or_insert_with_key(|settings| {
            let origination = Origination::new(settings.clone(), outbound.dial);
            let client = AppClient::over_tls(outbound.dial, Rc::clone(&origination));
            (origination, client)
        });
        Some((Rc::clone(&made.0), Rc::clone(&made.1)))
    }
}

/// Where to go.
pub(super) struct Places {
    pub(super) addresses: Vec<SocketAddr>,
    /// What the app's own TLS must be at least.
    pub(super) min_tls: Option<TlsVersion>,
    /// It passes, and would not where policy is enforced.
    pub(super) noted: Option<egress::Denied>,
}

/// The addresses to try: the endpoint's, or those that our resolver gives for the service's name. `arrived`: what the app
/// itself speaks.
pub(super) async fn places(
    outbound: &Rc<Outbound>,
    route: &Route,
    endpoint: Option<SocketAddr>,
    arrived: Arrived,
) -> Result<Places, Unreached> {
    let external = route.external();
    let name = external.and_then(|external| external.name.as_deref());
    let arrived = match external.and_then(|external| external.tls.as_ref()) {
        Some(_) => BEGUN,
        None => arrived,
    };
    let host = name.or(route.server_name());
    let addresses = match (name, endpoint) {
        (Some(name), _) => {
            let port = route.destination.port();
            let port = external.and_then(|external| external.target_ports.get(&port)).copied().unwrap_or(port);
            leads::addresses_of(outbound, &route.mesh, name, port).await.map_err(|detail| Unreached {
                reason: Reason::NameUnresolved,
                detail,
                decision: None,
            })?
        }
        (None, Some(endpoint)) => vec![endpoint],
        (None, None) => Vec::new(),
    };
    let (mut min_tls, mut noted) = (None, None);
    for place in addresses.iter().filter(|place| !route.mesh.is_in_ranges(place.ip())) {
        (min_tls, noted) =
            egress::declared(outbound, &route.mesh, *place, host, arrived).map_err(|denied| Unreached {
                reason: denied.reason,
                detail: "the service is outside, and may not be reached from here".to_owned(),
                decision: Some(denied.decision),
            })?;
    }
    // What we begin ourselves keeps its own minimum.
    Ok(Places { addresses, min_tls: min_tls.filter(|_| route.server_name().is_none()), noted })
}

/// What was decided on, to be asked about again. `tls`: the app's own.
pub(super) fn going(route: &Route, places: &[SocketAddr], arrived: Arrived, tls: Option<WireVersion>) -> Going {
    let external = route.external();
    let begun = external.is_some_and(|external| external.tls.is_some());
    let host = external.and_then(|external| external.name.as_deref()).or(route.server_name());
    let outside = places.iter().copied().filter(|place| !route.mesh.is_in_ranges(place.ip()));
    Going {
        destination: route.destination,
        outside: outside.collect(),
        host: host.map(str::to_owned),
        arrived: if begun { BEGUN } else { arrived },
        tls,
    }
}

/// A connection that carries the app's bytes, in TLS where the service asks for it.
pub(super) async fn connect(
    outbound: &Rc<Outbound>,
    route: &Route,
    places: &[SocketAddr],
) -> Result<(TcpStream, SocketAddr), Unreached> {
    let tls = outbound.originations.of(route, outbound);
    let mut failed = (Reason::NoEndpoint, "it has no address".to_owned());
    for place in places {
        let dialled = match &tls {
            Some((origination, _)) => origination.dial(*place, Inside::Bytes).await,
            None => dial(*place, outbound.dial).await,
        };
        match dialled {
            Ok(far) => return Ok((far, *place)),
            Err(error) => failed = (reason_of(&error), format!("{place}: {error}")),
        }
    }
    Err(Unreached { reason: failed.0, detail: failed.1, decision: None })
}

fn reason_of(error: &io::Error) -> Reason {
    match originate::reason_of(error) {
        Some(reason) => reason,
        None if error.kind() == io::ErrorKind::TimedOut => Reason::Timeout,
        None => Reason::ConnectFailed,
    }
}

/// Whose connections a request takes: those in TLS where the service asks for it. Its host is then the server's, and not
/// what the service is called here; another host than these two is refused.
pub(super) fn client_for(
    outbound: &Outbound,
    route: &Route,
    request: &mut Request<Body>,
) -> Result<Option<Rc<AppClient>>, (Reason, String)> {
    let Some((_, client)) = outbound.originations.of(route, outbound) else { return Ok(None) };
    let Some(server) = route.server_name() else { return Ok(None) };
    let said = request.uri().authority().map(Authority::as_str).unwrap_or_default();
    let host = host_of(said);
    let ours = match (&host, &route.to) {
        // An address, or nothing.
        (None, _) => true,
        (Some(host), Callee::Service(service)) => {
            *host == *service.name.name() || service.hostnames.iter().any(|name| name == host)
        }
        (Some(_), Callee::Workload(_)) => false,
    };
    if !ours && host.as_deref() != Some(server) {
        return Err((Reason::NameMismatch, format!("the request is for {said}, and the service's TLS for {server}")));
    }
    if ours {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Authority::try_from(server).ok();
        let uri = Uri::from_parts(parts).map_err(|error| (Reason::MalformedRequest, error.to_string()))?;
        *request.uri_mut() = uri;
    }
    Ok(Some(client))
}
