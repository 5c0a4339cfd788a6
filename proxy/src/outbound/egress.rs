//! What leaves the mesh: asked of the EgressPolicies before a byte of it does. Where nothing is restricted nothing is
//! read; else the first bytes tell the name (SNI, Host) and whether it is TLS. A rule for a name decides where the
//! connection goes, too: to an address that our own resolver gives for the name, whatever address the app used.
//!
//! Refuses: what no rule allows, what a rule denies, plain bytes and old TLS where TLS is asked for (the ServerHello has
//! to prove it), a name that our resolver does not know or that leads back into the mesh. HTTP gets an answer that says
//! why, everything else RST. In Observe the refusal is recorded and the bytes go where the app sent them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use isthmus_proto::model::hint::by_port;
use tokio::net::TcpStream;

use super::carried;
use super::connection::copy;
use super::denied::say;
use super::departure::{count, host_in};
use super::going::{Going, refused_later};
use super::leads::{ATTEMPTS, outside_of};
use super::pin::Pin;
use super::stream::wire_version;
use super::told::{self, Whom};
use super::{Outbound, postgres, request};
use crate::detect::peek::DETECTION_LIMIT;
use crate::detect::{Peeked, Prefixed, Protocol, WireVersion, peek};
use crate::flows;
use crate::http::server::serve_http2;
use crate::http::{Asked, h1};
use crate::reason::Reason;
use crate::state::egress::explain::because;
use crate::state::egress::{Leaving, Verdict, host_of};
use crate::state::policy::Arrived;
use crate::state::{AppProtocol, Enforcement, Mesh, Snapshot, TlsVersion};
use crate::tcp::{self, copy::write_all, dial};
use crate::telemetry::Span;
use crate::tls::gate::{self, GateError};

/// On a port of which nothing is known a silent client is waited for so long. Refusing it earlier would refuse apps that
/// connect before they have something to say; waiting longer would only delay the no for those whose server speaks first.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where clients speak first, pools connect long before they do.
const POOLED: Duration = Duration::from_secs(24 * 3600);
const DNS: u16 = 53;

/// One connection to somewhere outside.
struct Outside<'a> {
    outbound: &'a Rc<Outbound>,
    to: SocketAddr,
    /// It passes, and would not where policy is enforced.
    noted: Cell<Option<Denied>>,
}

/// A yes, and what hangs on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    by_host: bool,
    min_tls: Option<TlsVersion>,
}

/// A no: the word, a sentence, and an id to ask the operator with.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) reason: Reason,
    pub(super) decision: String,
}

impl Denied {
    /// What passed all the same.
    pub(super) fn note(&self, span: &mut Span) {
        span.set("isthmus.would_refuse", self.reason.word());
        span.set("isthmus.decision.id", self.decision.as_str());
    }
}

/// Bytes for somebody outside.
pub(super) async fn serve(outbound: &Rc<Outbound>, app: TcpStream, to: SocketAddr, mesh: Snapshot) -> io::Result<()> {
    let outside = Outside::of(outbound, to);
    let unread = outside.leaving(None, Arrived::Plain);
    let verdict = mesh.egress().decide(&unread);
    // A yes to what is not known is a yes to whatever it is: nothing is read before, nothing is held.
    if verdict.refused.is_none() && verdict.audit.is_none() || is_resolver(&mesh, to) {
        count(outbound, &unread, &verdict, (flows::Verdict::Allowed, None), false);
        let ends = outside.reach(app, &[to]).await?;
        return outside.carry(ends, BytesMut::new(), BytesMut::new(), None, Arrived::Plain).await;
    }
    let strict = verdict.refused.is_some() && is_enforced(&mesh);
    drop(mesh);
    outside.read(app, strict).await
}

/// Whether one request may leave, and where it goes then; with the no that this would have been. The connection's own
/// address is `to`.
pub(super) async fn places_of_request(
    outbound: &Rc<Outbound>,
    to: SocketAddr,
    host: Option<&str>,
    mesh: &Mesh,
) -> Result<(Vec<SocketAddr>, Option<Denied>), Denied> {
    let outside = Outside::of(outbound, to);
    if mesh.egress().is_open() {
        return Ok((vec![to], None));
    }
    let host = host.and_then(host_of);
    let leaving = outside.leaving(host.as_deref(), Arrived::Plain);
    let (_, places) = outside.ask(mesh, &leaving).await?;
    Ok((places, outside.noted.take()))
}

/// Whether a service's own place outside may be reached; the TLS that it then takes, if any, and the no that this would have
/// been. `host`: the name that it is declared with.
pub(super) fn declared(
    outbound: &Rc<Outbound>,
    mesh: &Mesh,
    to: SocketAddr,
    host: Option<&str>,
    arrived: Arrived,
) -> Result<(Option<TlsVersion>, Option<Denied>), Denied> {
    let outside = Outside::of(outbound, to);
    let leaving = outside.leaving(host, arrived);
    if mesh.egress().is_open() {
        count(outbound, &leaving, &Verdict::of_no_rule(), (flows::Verdict::Allowed, None), true);
        return Ok((None, None));
    }
    let min_tls = outside.authorize(mesh, &leaving)?.min_tls;
    Ok((min_tls, outside.noted.take()))
}

/// Why what goes on towards there may not go on; counted and said.
pub(super) fn refused_now(
    outbound: &Rc<Outbound>,
    mesh: &Mesh,
    to: SocketAddr,
    host: Option<&str>,
    arrived: Arrived,
) -> Option<Reason> {
    let leaving = Leaving { to, host, arrived };
    let verdict = mesh.egress().decide(&leaving);
    let reason = verdict.refused.filter(|_| is_enforced(mesh) && !is_resolver(mesh, to))?;
    say(outbound, reason, &verdict, &leaving, true, "a new policy ends what goes on");
    count(outbound, &leaving, &verdict, (flows::Verdict::Refused, Some(reason)), true);
    Some(reason)
}

/// The resolvers are part of what lets anything leave at all; over UDP they are let through by capture.
fn is_resolver(mesh: &Mesh, to: SocketAddr) -> bool {
    to.port() == DNS && mesh.resolvers().contains(&to.ip().to_canonical())
}

impl<'a> Outside<'a> {
    fn of(outbound: &'a Rc<Outbound>, to: SocketAddr) -> Self {
        Outside { outbound, to, noted: Cell::default() }
    }

    fn leaving<'l>(&self, host: Option<&'l str>, arrived: Arrived) -> Leaving<'l> {
        Leaving { to: self.to, host, arrived }
    }

    /// `strict`: as long as nothing is known of it, it may not leave. Else it may, and only the record waits.
    async fn read(&self, mut app: TcpStream, strict: bool) -> io::Result<()> {
        let peeked = self.first_bytes(&mut app, strict).await?;
        if peeked.ended && peeked.bytes.is_empty() {
            // It left without a word: there is nothing to carry.
            return Ok(());
        }
        match peeked.protocol {
            Protocol::Http1 if peeked.bytes.starts_with(b"CONNECT ") => self.opaque(app, peeked.bytes, None).await,
            Protocol::Http1 if strict => self.http1(app, peeked.bytes).await,
            Protocol::Http1 => {
                let host = host_in(&peeked.bytes);
                self.opaque(app, peeked.bytes, host).await
            }
            Protocol::Http2 => self.http2(app, peeked.bytes).await,
            Protocol::Tls => self.tls(app, peeked.bytes).await,
            Protocol::PostgresSsl | Protocol::PostgresGss => self.postgres(app, peeked.bytes).await,
            Protocol::Opaque => self.opaque(app, peeked.bytes, None).await,
        }
    }

    async fn first_bytes(&self, app: &mut TcpStream, strict: bool) -> io::Result<Peeked> {
        match by_port(self.to.port()).protocol {
            AppProtocol::ServerFirst => Ok(Peeked { protocol: Protocol::Opaque, bytes: BytesMut::new(), ended: false }),
            AppProtocol::Tls | AppProtocol::Postgres => peek(app, POOLED).await,
            _ if strict => peek(app, PATIENCE).await,
            _ => peek(app, DETECTION_LIMIT).await,
        }
    }

    /// Each request is asked for by itself: [`places_of_request`].
    async fn http1(&self, app: TcpStream, bytes: BytesMut) -> io::Result<()> {
        let (outbound, to) = (self.outbound, self.to);
        let pin = Pin::default();
        let handle = async |asked: Asked<'_>| request::serve(outbound, to, Some(&pin), asked).await;
        let refused = |reason, error: &h1::HeadError| request::unread(outbound, to, reason, error);
        match h1::serve(h1::Connection::new(app, bytes), outbound.needs.stop.clone(), refused, handle).await? {
            h1::Ended::Closed => Ok(()),
            h1::Ended::Tunnel(app, bytes) => Box::pin(self.opaque(app, bytes, None)).await,
        }
    }

    async fn http2(&self, app: TcpStream, bytes: BytesMut) -> io::Result<()> {
        let (outbound, to, stop) = (Rc::clone(self.outbound), self.to, self.outbound.needs.stop.clone());
        let handle = async move |asked: Asked<'_>| request::serve(&outbound, to, None, asked).await;
        Box::pin(serve_http2(Prefixed::new(bytes, app), stop, handle)).await
    }

    async fn opaque(&self, app: TcpStream, held: BytesMut, host: Option<String>) -> io::Result<()> {
        let mesh = self.outbound.needs.state.snapshot();
        let leaving = self.leaving(host.as_deref(), Arrived::Plain);
        let places = match self.ask(&mesh, &leaving).await {
            Ok((_, places)) => places,
            Err(denied) => return self.refused(app, &denied),
        };
        let ends = self.reach(app, &places).await?;
        self.carry(ends, held, BytesMut::new(), host.as_deref(), Arrived::Plain).await
    }

    async fn tls(&self, mut app: TcpStream, mut held: BytesMut) -> io::Result<()> {
        let hello = match gate::read_client_hello(&mut app, &mut held, WireVersion(0)).await {
            Ok(hello) => hello,
            // It only looked like it.
            Err(GateError::NotTls(_)) => return self.opaque(app, held, None).await,
            Err(error) => return self.shut(app, &self.leaving(None, Arrived::Plain), &error),
        };
        let host = hello.server_name.as_deref().and_then(host_of);
        let arrived = app_tls(hello.newest);
        let leaving = self.leaving(host.as_deref(), arrived);
        let mesh = self.outbound.needs.state.snapshot();
        let (allowed, places) = match self.ask(&mesh, &leaving).await {
            Ok(allowed) => allowed,
            Err(denied) => return self.refused(app, &denied),
        };
        let (mut app, mut far) = self.reach(app, &places).await?;
        let Some(minimum) = allowed.min_tls.map(wire_version) else {
            return self.carry((app, far), held, BytesMut::new(), host.as_deref(), arrived).await;
        };
        match gate::open(&mut app, held, &mut far, minimum).await {
            Ok(gate) => {
                let arrived = app_tls(gate.version);
                self.carry((app, far), gate.to_server, gate.to_client, host.as_deref(), arrived).await
            }
            Err(error) => self.shut(app, &leaving, &error),
        }
    }

    /// The name comes after the server was asked for TLS: rules for names say no.
    async fn postgres(&self, app: TcpStream, held: BytesMut) -> io::Result<()> {
        let mesh = self.outbound.needs.state.snapshot();
        let arrived = app_tls(WireVersion::TLS1_3);
        let leaving = self.leaving(None, arrived);
        let allowed = match self.authorize(&mesh, &leaving) {
            Ok(allowed) => allowed,
            Err(denied) => return self.refused(app, &denied),
        };
        let (mut app, mut far) = self.reach(app, &[self.to]).await?;
        let Some(minimum) = allowed.min_tls.map(wire_version) else {
            return self.carry((app, far), held, BytesMut::new(), None, arrived).await;
        };
        match postgres::open_gate(&mut app, held, &mut far, minimum).await {
            Ok(gate) => self.carry((app, far), gate.to_server, gate.to_client, None, app_tls(gate.version)).await,
            Err(error) => self.shut(app, &leaving, &error),
        }
    }

    /// Of what is no HTTP: nobody there would read why.
    fn refused(&self, app: TcpStream, denied: &Denied) -> io::Result<()> {
        told::refused_connection(self.outbound, Whom::at(self.to), denied.reason, Some(&denied.decision));
        carried::refused(self.outbound, self.to, Instant::now(), (denied.reason, Some(&denied.decision)));
        tcp::reset(app);
        Ok(())
    }

    /// The gate stays shut: said if it is our no, RST either way but where both ends settled it by an alert.
    fn shut(&self, app: TcpStream, leaving: &Leaving<'_>, error: &GateError) -> io::Result<()> {
        if let Some(reason) = error.reason() {
            let denied = self.deny(reason, leaving, &error.to_string());
            told::refused_connection(self.outbound, Whom::at(self.to), denied.reason, Some(&denied.decision));
        }
        if !matches!(error, GateError::RefusedByServer) {
            tcp::reset(app);
        }
        Ok(())
    }

    /// Whether it may leave, and where it goes then.
    async fn ask(&self, mesh: &Mesh, leaving: &Leaving<'_>) -> Result<(Allowed, Vec<SocketAddr>), Denied> {
        let allowed = self.authorize(mesh, leaving)?;
        match self.places(mesh, &allowed, leaving.host).await {
            Ok(places) => Ok((allowed, places)),
            Err(detail) => Err(self.deny(Reason::NameUnresolved, leaving, &detail)),
        }
    }

    /// Where it goes: for a rule that names hosts, to what our resolver gives for the name; else where the app sent it.
    async fn places(&self, mesh: &Mesh, allowed: &Allowed, host: Option<&str>) -> Result<Vec<SocketAddr>, String> {
        let Some(host) = host.filter(|_| allowed.by_host) else {
            return Ok(vec![self.to]);
        };
        let mut places = outside_of(self.outbound, mesh, host).await?;
        // The app's own choice comes first where it is among them; then its family.
        let own = self.to.ip().to_canonical();
        places.sort_by_key(|ip| (*ip != own, ip.is_ipv4() != own.is_ipv4()));
        places.truncate(ATTEMPTS);
        Ok(places.into_iter().map(|ip| SocketAddr::new(ip, self.to.port())).collect())
    }

    async fn reach(&self, app: TcpStream, places: &[SocketAddr]) -> io::Result<(TcpStream, TcpStream)> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for place in places {
            match dial(*place, self.outbound.dial).await {
                Ok(far) => return Ok((app, far)),
                Err(error) => failed = error,
            }
        }
        tcp::reset(app);
        Err(failed)
    }

    /// Until both sides ended, or a new policy says no.
    async fn carry(
        &self,
        (mut app, mut far): (TcpStream, TcpStream),
        to_server: BytesMut,
        to_client: BytesMut,
        host: Option<&str>,
        arrived: Arrived,
    ) -> io::Result<()> {
        write_all(&app, &to_client).await?;
        drop(to_client);
        let (destination, host) = (self.to, host.map(str::to_owned));
        let (span, noted) = (carried::outside(self.outbound, destination, host.as_deref()), self.noted.take());
        span.with(|span| noted.iter().for_each(|noted| noted.note(span)));
        let going = Going { destination, outside: vec![self.to], host, arrived, tls: None };
        tokio::select! {
            copied = copy(self.outbound, &mut app, &mut far, &to_server, (Whom::at(self.to), &span)) => copied,
            reason = refused_later(Rc::clone(self.outbound), going) => {
                span.refused(reason, None);
                tcp::reset(app);
                tcp::reset(far);
                Ok(())
            }
        }
    }

    fn authorize(&self, mesh: &Mesh, leaving: &Leaving<'_>) -> Result<Allowed, Denied> {
        let verdict = mesh.egress().decide(leaving);
        let enforced = is_enforced(mesh);
        if let Some((reason, _)) = &verdict.audit {
            let decision = say(self.outbound, *reason, &verdict, leaving, false, "a policy in Audit would refuse it");
            self.noted.set(Some(Denied { reason: *reason, decision }));
        }
        let Some(reason) = verdict.refused else {
            // In Observe nothing is led elsewhere, and no ServerHello is waited for.
            let (by_host, min_tls) = (verdict.by_host && enforced, verdict.min_tls.filter(|_| enforced));
            count(self.outbound, leaving, &verdict, (flows::Verdict::Allowed, None), true);
            return Ok(Allowed { by_host, min_tls });
        };
        let detail = mesh.egress().refusal_detail().map_or_else(|| because(reason, &verdict), str::to_owned);
        let decision = say(self.outbound, reason, &verdict, leaving, enforced, &detail);
        let came_of_it = if enforced { flows::Verdict::Refused } else { flows::Verdict::WouldRefuse };
        count(self.outbound, leaving, &verdict, (came_of_it, Some(reason)), true);
        let denied = Denied { reason, decision };
        if enforced {
            return Err(denied);
        }
        self.noted.set(Some(denied));
        Ok(Allowed { by_host: false, min_tls: None })
    }

    /// A no that came after policy's yes.
    fn deny(&self, reason: Reason, leaving: &Leaving<'_>, detail: &str) -> Denied {
        let verdict = Verdict::of_no_rule();
        count(self.outbound, leaving, &verdict, (flows::Verdict::Refused, Some(reason)), true);
        Denied { reason, decision: say(self.outbound, reason, &verdict, leaving, true, detail) }
    }
}

fn is_enforced(mesh: &Mesh) -> bool {
    mesh.enforcement() == Enforcement::Enforce
}

fn app_tls(version: WireVersion) -> Arrived {
    Arrived::AppTls { version: TlsVersion::from_wire(version.0), declared: true }
}
