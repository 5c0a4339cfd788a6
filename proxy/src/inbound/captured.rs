//! A connection that capture redirected: somebody who did not come through a sidecar. What it is decides the rest: plain
//! HTTP gets an answer that says why not, everything else that is refused gets RST. The app's own TLS passes a gate
//! where the port is HttpsOnly.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use isthmus_proto::model::hint::by_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::authorize::{Caller, Question, Refusal};
use super::live::{Entry, Signal, Watched};
use super::tunnel::wire_version;
use super::{Inbound, probe, request, spans, told};
use crate::detect::peek::DETECTION_LIMIT;
use crate::detect::{POSTGRES_GSS_REQUEST, POSTGRES_SSL_REQUEST, Peeked, Prefixed, Protocol, WireVersion, peek};
use crate::http::{Asked, h1, server};
use crate::reason::Reason;
use crate::state::policy::Arrived;
use crate::state::{AppProtocol, InboundPort, Mesh, TlsVersion, Transport};
use crate::tcp;
use crate::tcp::copy::{Copied, copy_both, write_all};
use crate::telemetry::{ConnectionSpan, Direction, TraceContext};
use crate::tls::gate::{self, GATE_DEADLINE, GateError};

/// One captured connection.
struct Captured<'a> {
    inbound: &'a Rc<Inbound>,
    mesh: &'a Mesh,
    port: &'a InboundPort,
    source: SocketAddr,
    destination: SocketAddr,
    began: Instant,
    /// It passes, and would not where policy is enforced.
    noted: Cell<Option<Refusal>>,
}

pub(super) async fn serve(inbound: &Rc<Inbound>, mut stream: TcpStream, source: SocketAddr, destination: SocketAddr) {
    tcp::prepare(&stream);
    let began = Instant::now();
    let _open = inbound.needs.metrics.connection(Direction::Inbound);
    let mesh = &inbound.needs.state.snapshot();
    let port = &mesh.inbound_port(destination.port());
    let captured = Captured { inbound, mesh, port, source, destination, began, noted: Cell::default() };
    if !mesh.is_own_address(destination.ip()) {
        let reason = if mesh.is_ready() { Reason::NotMyAddress } else { Reason::NotReady };
        let detail = &format!("captured for {destination}, which is not this workload's");
        captured.tell_refused(Arrived::Plain, &inbound.refuse(reason, source.ip(), detail));
        return tcp::reset(stream);
    }
    // Of a port that no service declares, its number alone may speak.
    let protocol = if port.declared { port.protocol } else { by_port(destination.port()).protocol };
    let Ok(peeked) = first_bytes(&mut stream, protocol).await else {
        return;
    };
    let ended = match peeked.protocol {
        Protocol::Http1 => captured.http1(peeked.bytes, stream).await,
        Protocol::Http2 => captured.http2(peeked.bytes, stream).await,
        Protocol::Tls => captured.tls(peeked.bytes, stream).await,
        Protocol::PostgresSsl | Protocol::PostgresGss => captured.postgres(peeked.bytes, stream).await,
        Protocol::Opaque => captured.opaque(peeked.bytes, stream).await,
    };
    if let Err(error) = ended {
        tracing::debug!(caller_address = %source, %destination, "captured connection ended: {error}");
        captured.tell_broken(&error);
    }
}

/// Where the server speaks first, or the bytes mean nothing to us, nothing is waited for.
async fn first_bytes(stream: &mut TcpStream, declared: AppProtocol) -> io::Result<Peeked> {
    match declared {
        AppProtocol::ServerFirst | AppProtocol::Tcp => {
            Ok(Peeked { protocol: Protocol::Opaque, bytes: BytesMut::new(), ended: false })
        }
        AppProtocol::Detect => peek(stream, DETECTION_LIMIT).await,
        AppProtocol::Http | AppProtocol::Http2 => {
            let mut peeked = peek(stream, GATE_DEADLINE).await?;
            // What is no HTTP gets its 400 from the HTTP parser; what is silent stays opaque.
            if peeked.protocol == Protocol::Opaque && !peeked.bytes.is_empty() {
                peeked.protocol = Protocol::Http1;
            }
            Ok(peeked)
        }
        AppProtocol::Tls | AppProtocol::Postgres => peek(stream, GATE_DEADLINE).await,
    }
}

impl Captured<'_> {
    fn enforced(&self) -> bool {
        self.inbound.is_enforced(self.mesh, self.port)
    }

    fn question(&self, arrived: Arrived) -> Question<'_> {
        let caller = Caller { peer: None, address: self.source.ip(), arrived };
        let number = self.destination.port();
        Question { mesh: self.mesh, number, port: self.port, caller, http: None, may_probe: false }
    }

    fn authorize(&self, arrived: Arrived) -> Result<(), Refusal> {
        self.noted.set(self.inbound.authorize(&self.question(arrived))?);
        Ok(())
    }

    /// Whether it may go on. Counted when it has shown what it is.
    fn may_become(&self, arrived: Arrived) -> Result<(), Refusal> {
        self.inbound.still_authorized(&self.question(arrived))
    }

    async fn http1(&self, bytes: BytesMut, stream: TcpStream) -> io::Result<()> {
        let (inbound, source, destination) = (self.inbound, self.source.ip(), self.destination);
        let (pin, signal) = (OnceCell::new(), Rc::<Signal>::default());
        let handle = async |asked: Asked<'_>| {
            request::from_plain(inbound, source, destination, false, &pin, Watched::of(&signal), asked).await
        };
        let ratio = self.port.options.sampling_millionths;
        let refused = |reason, error: &h1::HeadError| {
            inbound.refuse(reason, source, &error.to_string());
            spans::unread(inbound, source, (destination, ratio), (None, Arrived::Plain), reason);
        };
        let served = tokio::select! {
            biased;
            ended = h1::serve(h1::Connection::new(stream, bytes), inbound.needs.stop.clone(), refused, handle) => ended?,
            _ = signal.ended() => h1::Ended::Closed,
        };
        match served {
            h1::Ended::Closed => Ok(()),
            // An app's own CONNECT is between it and the proxy that it believes to be there: bytes.
            h1::Ended::Tunnel(stream, bytes) => Box::pin(self.opaque(bytes, stream)).await,
        }
    }

    async fn http2(&self, bytes: BytesMut, stream: TcpStream) -> io::Result<()> {
        let (inbound, source, destination) = (Rc::clone(self.inbound), self.source.ip(), self.destination);
        let stop = inbound.needs.stop.clone();
        let signal = Rc::<Signal>::default();
        let ended = Rc::clone(&signal);
        let handle = async move |asked: Asked<'_>| {
            let watched = Watched::of(&signal);
            request::from_plain(&inbound, source, destination, true, &OnceCell::new(), watched, asked).await
        };
        tokio::select! {
            biased;
            served = Box::pin(server::serve_http2(Prefixed::new(bytes, stream), stop, handle)) => served,
            _ = ended.ended() => Ok(()),
        }
    }

    async fn opaque(&self, bytes: BytesMut, mut stream: TcpStream) -> io::Result<()> {
        let question = self.question(Arrived::Plain);
        let silent = bytes.is_empty();
        if silent && probe::may_connect(self.port, self.source.ip()) && !self.inbound.would_pass(&question) {
            return self.connect_probe(stream).await;
        }
        if let Err(refusal) = self.authorize(Arrived::Plain) {
            return self.refuse(Arrived::Plain, &refusal, stream);
        }
        let mut app = self.dial(&stream).await?;
        self.copy(Arrived::Plain, bytes, BytesMut::new(), &mut stream, &mut app).await
    }

    /// The platform asks whether the app takes connections: it does, or RST says that it does not. Nothing is carried.
    async fn connect_probe(&self, mut stream: TcpStream) -> io::Result<()> {
        drop(self.dial(&stream).await?);
        let mut said = [0u8; 1];
        let heard = tokio::time::timeout(GATE_DEADLINE, stream.read(&mut said)).await;
        if matches!(heard, Ok(Ok(1))) {
            // Whoever has something to say is no probe.
            let _ = self.authorize(Arrived::Plain);
            tcp::reset(stream);
        }
        Ok(())
    }

    async fn tls(&self, mut held: BytesMut, mut stream: TcpStream) -> io::Result<()> {
        match gate::read_client_hello(&mut stream, &mut held, WireVersion(0)).await {
            Ok(hello) => self.tls_after_hello(hello.newest, held, stream).await,
            // It only looked like it.
            Err(GateError::NotTls(_)) => self.opaque(held, stream).await,
            Err(error) => self.shut(error, stream),
        }
    }

    async fn tls_after_hello(&self, newest: WireVersion, held: BytesMut, mut stream: TcpStream) -> io::Result<()> {
        let open = self.port.policy.transport == Transport::Permissive || !self.enforced();
        let offered = self.app_tls(newest);
        // Counted at once where nobody looks at what the ServerHello chooses, else when it has chosen.
        if let Err(refusal) = if open { self.authorize(offered) } else { self.may_become(offered) } {
            return self.refuse(offered, &refusal, stream);
        }
        let mut app = self.dial(&stream).await?;
        if open {
            // Should the version ever be asked for, this connection ends.
            return self.copy(self.unseen_tls(), held, BytesMut::new(), &mut stream, &mut app).await;
        }
        self.pass_gate(held, stream, app).await
    }

    async fn pass_gate(&self, held: BytesMut, mut stream: TcpStream, mut app: TcpStream) -> io::Result<()> {
        let open = self.port.policy.transport == Transport::Permissive || !self.enforced();
        let minimum = if open { WireVersion(0) } else { wire_version(self.port.policy.min_tls_version) };
        match gate::open(&mut stream, held, &mut app, minimum).await {
            Ok(gate) => {
                let arrived = self.app_tls(gate.version);
                if let Err(refusal) = self.authorize(arrived) {
                    tcp::reset(app);
                    return self.refuse(arrived, &refusal, stream);
                }
                self.copy(arrived, gate.to_server, gate.to_client, &mut stream, &mut app).await
            }
            Err(error) => {
                if error.reason().is_some() {
                    tcp::mark_reset(&app);
                }
                self.shut(error, stream)
            }
        }
    }

    fn unseen_tls(&self) -> Arrived {
        match self.app_tls(WireVersion(0)) {
            Arrived::AppTls { declared, .. } => Arrived::AppTls { version: None, declared },
            other => other,
        }
    }

    fn app_tls(&self, version: WireVersion) -> Arrived {
        // On a port declared PostgreSQL, TLS comes after an SSLRequest, or at once (direct negotiation, version 17).
        let declared = matches!(self.port.protocol, AppProtocol::Tls | AppProtocol::Postgres);
        Arrived::AppTls { version: TlsVersion::from_wire(version.0), declared }
    }

    /// SSLRequest, one byte back, then TLS or plain; a GSSENCRequest may come before. Bytes that came with a request were
    /// not asked for yet: whoever sent them hopes that they are taken for encrypted ones later (CVE-2021-23222).
    async fn postgres(&self, bytes: BytesMut, mut stream: TcpStream) -> io::Result<()> {
        // Counted when the app has said whether it is TLS.
        let encrypted = self.app_tls(WireVersion::TLS1_3);
        if bytes.len() > POSTGRES_SSL_REQUEST.len() {
            let detail = "bytes that came with a request for encryption, before its answer";
            let refusal = self.inbound.refuse(Reason::MalformedRequest, self.source.ip(), detail);
            return self.refuse(Arrived::Plain, &refusal, stream);
        }
        if let Err(refusal) = self.may_become(encrypted) {
            return self.refuse(encrypted, &refusal, stream);
        }
        let mut app = self.dial(&stream).await?;
        let mut answer = ask_postgres(&mut app, &bytes).await?;
        if bytes[..] == *POSTGRES_GSS_REQUEST && answer == *b"N" {
            stream.write_all(&answer).await?;
            let next = peek(&mut stream, GATE_DEADLINE).await?;
            if next.protocol != Protocol::PostgresSsl || next.bytes.len() > POSTGRES_SSL_REQUEST.len() {
                return self.postgres_plain(next.bytes, BytesMut::new(), stream, app).await;
            }
            answer = ask_postgres(&mut app, &next.bytes).await?;
        }
        if answer == *b"S" {
            // The app accepts each connection anew; this one continues.
            stream.write_all(&answer).await?;
            return self.pass_gate(BytesMut::new(), stream, app).await;
        }
        // `G` included: what GSSAPI encrypts is no TLS, and counts as plaintext.
        self.postgres_plain(BytesMut::new(), BytesMut::from(&answer[..]), stream, app).await
    }

    async fn postgres_plain(
        &self,
        to_app: BytesMut,
        to_caller: BytesMut,
        mut stream: TcpStream,
        mut app: TcpStream,
    ) -> io::Result<()> {
        if let Err(refusal) = self.authorize(Arrived::Plain) {
            tcp::reset(app);
            return self.refuse(Arrived::Plain, &refusal, stream);
        }
        self.copy(Arrived::Plain, to_app, to_caller, &mut stream, &mut app).await
    }

    /// The gate stays shut: recorded if it is our no, RST either way but where both apps settled it by an alert.
    fn shut(&self, error: GateError, stream: TcpStream) -> io::Result<()> {
        // The same engine says no, so that the record names the same rule.
        let seen = match &error {
            GateError::ServerVersion(version) | GateError::ClientVersion(version) => Some(self.app_tls(*version)),
            GateError::NotTls(_) => Some(Arrived::Plain),
            GateError::RefusedByServer => return Ok(()),
            GateError::Timeout | GateError::Io(_) => None,
        };
        match (seen, error.reason()) {
            (Some(seen), Some(_)) => {
                if let Err(refusal) = self.authorize(seen) {
                    self.tell_refused(seen, &refusal);
                }
            }
            (None, Some(reason)) => {
                let refusal = self.inbound.refuse(reason, self.source.ip(), &error.to_string());
                self.tell_refused(Arrived::Plain, &refusal);
            }
            (_, None) => {}
        }
        tcp::reset(stream);
        Err(io::Error::other(error))
    }

    fn told(&self, arrived: Arrived) -> told::Connection<'_> {
        told::Connection { peer: None, source: self.source.ip(), app: self.destination, arrived }
    }

    /// Refused bytes end with RST, and are shown to who looks.
    fn refuse(&self, arrived: Arrived, refusal: &Refusal, stream: TcpStream) -> io::Result<()> {
        self.tell_refused(arrived, refusal);
        tcp::reset(stream);
        Ok(())
    }

    fn tell_refused(&self, arrived: Arrived, refusal: &Refusal) {
        told::refused_connection(self.inbound, &self.told(arrived), refusal);
        spans::refused(self.inbound, &self.context(), refusal, |context| self.span(context, arrived));
    }

    /// HTTP/2 that broke its own rules has ended the connection.
    fn tell_broken(&self, error: &io::Error) {
        if let Some(reason) = server::refused(error) {
            self.tell_refused(Arrived::Plain, &self.inbound.refuse(reason, self.source.ip(), &error.to_string()));
        }
    }

    /// Nobody says anything of a trace in bytes.
    fn context(&self) -> TraceContext {
        self.inbound.needs.tracer.root_at(self.port.options.sampling_millionths)
    }

    fn span(&self, context: &TraceContext, arrived: Arrived) -> ConnectionSpan {
        spans::connection(self.inbound, context, (self.source, self.destination), (None, arrived), self.began)
    }

    async fn dial(&self, caller: &TcpStream) -> io::Result<TcpStream> {
        let reached = super::app::reach(self.inbound, self.destination, self.source, self.port);
        let dialled = Box::pin(reached).await;
        if let Err(error) = &dialled {
            tcp::mark_reset(caller);
            let detail = format!("the app at {} cannot be reached: {error}", self.destination);
            let refusal = self.inbound.refuse(Reason::AppUnreachable, self.source.ip(), &detail);
            self.tell_refused(Arrived::Plain, &refusal);
        }
        dialled
    }

    async fn copy(
        &self,
        arrived: Arrived,
        to_app: BytesMut,
        to_caller: BytesMut,
        stream: &mut TcpStream,
        app: &mut TcpStream,
    ) -> io::Result<()> {
        write_all(app, &to_app).await?;
        write_all(stream, &to_caller).await?;
        let (own, span) = (Copied::after((to_caller.len(), to_app.len())), self.span(&self.context(), arrived));
        let (copied, noted) = (span.counts(&own), self.noted.take());
        span.with(|span| spans::note(span, noted.as_ref()));
        drop((to_app, to_caller));
        let signal = Rc::<Signal>::default();
        let (port, address, own) = (self.destination.port(), self.source.ip(), Rc::clone(&signal));
        let entry = Entry { port, peer: None, address, arrived, head: None, may_probe: false, signal: own };
        let _admitted = self.inbound.live.admit_late(entry);
        let ended = tokio::select! {
            // As in a tunnel: what the app says is what is sent.
            result = copy_both(app, stream, copied) => Ok(result),
            refusal = signal.ended() => Err(refusal),
        };
        let (result, refused) = match ended {
            Ok(result) => (result, None),
            Err(refusal) => {
                span.refused(refusal.reason, refusal.decision.as_deref());
                tcp::mark_reset(stream);
                tcp::mark_reset(app);
                (Ok(()), Some(refusal))
            }
        };
        span.ended(&result);
        let bytes = (copied.received.get(), copied.sent.get());
        told::connection(self.inbound, &self.told(arrived), bytes, self.began, refused.as_ref());
        result
    }
}

/// A request for encryption is answered with one byte.
async fn ask_postgres(app: &mut TcpStream, request: &[u8]) -> io::Result<[u8; 1]> {
    let mut answer = [0u8; 1];
    tokio::time::timeout(GATE_DEADLINE, async {
        app.write_all(request).await?;
        app.read_exact(&mut answer).await
    })
    .await??;
    Ok(answer)
}
