//! An app that is called over HTTP/1: a pool of kept connections per address, and one request with its answer on one of
//! them, in the caller's own task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode, request};
use isthmus_http2::MAX_INTERIM;
use tokio::time::Instant;

use super::head::{self, HeadError, ResponseHead};
use super::incoming::Incoming;
use super::outgoing::{Delimited, Outgoing};
use super::{Connection, Framing, Names, write};
use crate::http::body::{Body, BodyError};
use crate::http::client::Open;
use crate::http::exchange::{Answer, Caller, Upload};
use crate::http::patience::Wait;
use crate::http::transfer::{Sink, Transfer};
use crate::tcp::{DialOptions, dial};
use crate::tls::originate::{Inside, Origination};

/// Kept connections per address that wait for work. More are closed when their answer is done.
const MAX_IDLE: usize = 64;
/// A connection that waited longer is not used again, and closed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How often kept connections are looked at that nobody takes.
const SWEEP: Duration = Duration::from_secs(10);

/// Why an app gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("it cannot be reached: {0}")]
    Dial(std::io::Error),
    #[error("it closed the connection before it answered")]
    Closed,
    #[error("its answer cannot be understood: {0}")]
    Answer(HeadError),
    #[error("it did not answer in time")]
    Late,
    #[error("the request's body broke off: {0}")]
    Body(#[from] BodyError),
}

struct Idle {
    connection: Rc<Connection>,
    since: Instant,
}

/// Where kept connections wait.
pub struct Home {
    options: DialOptions,
    /// Where it is called in TLS.
    tls: Option<Rc<Origination>>,
    idle: RefCell<HashMap<SocketAddr, VecDeque<Idle>>>,
    open: Rc<Cell<usize>>,
    sweeping: Cell<bool>,
    /// How long a connection may wait.
    patience: Duration,
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Home({} open)", self.open.get())
    }
}

impl Home {
    pub fn new(options: DialOptions, tls: Option<Rc<Origination>>, open: Rc<Cell<usize>>) -> Rc<Home> {
        let (idle, sweeping) = (RefCell::default(), Cell::new(false));
        Rc::new(Home { options, tls, idle, open, sweeping, patience: IDLE_LIMIT })
    }

    /// For one caller alone, for as long as it lives.
    pub fn of_one(options: DialOptions, tls: Option<Rc<Origination>>, open: Rc<Cell<usize>>) -> Rc<Home> {
        let (idle, sweeping) = (RefCell::default(), Cell::new(false));
        Rc::new(Home { options, tls, idle, open, sweeping, patience: Duration::from_secs(24 * 3600) })
    }

    pub(super) fn give_back(self: &Rc<Self>, address: SocketAddr, connection: Rc<Connection>) {
        let mut all = self.idle.borrow_mut();
        let idle = all.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push_back(Idle { connection, since: Instant::now() });
        }
        if !self.sweeping.replace(true) {
            // Ends when nothing is kept any more.
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// The youngest that is still open.
    fn take(&self, address: SocketAddr) -> Option<Rc<Connection>> {
        let mut all = self.idle.borrow_mut();
        let idle = all.get_mut(&address)?;
        while let Some(youngest) = idle.pop_back() {
            if youngest.connection.is_quiet() && youngest.since.elapsed() < self.patience {
                return Some(youngest.connection);
            }
        }
        None
    }

    /// The first of several places that a connection leads to; it is kept for the request that follows.
    pub(in crate::http) async fn reach(
        self: &Rc<Self>,
        places: &[SocketAddr],
    ) -> Result<SocketAddr, (SocketAddr, ExchangeError)> {
        let mut failed = Err((SocketAddr::from(([0; 4], 0)), ExchangeError::Closed));
        for place in places {
            let connection = match self.take(*place) {
                Some(connection) => Ok(connection),
                None => self.dial(*place).await,
            };
            match connection {
                Ok(connection) => {
                    self.give_back(*place, connection);
                    return Ok(*place);
                }
                Err(error) => failed = Err((*place, error)),
            }
        }
        failed
    }

    async fn dial(self: &Rc<Self>, address: SocketAddr) -> Result<Rc<Connection>, ExchangeError> {
        let dialled = match &self.tls {
            Some(tls) => tls.dial(address, Inside::Http1).await,
            None => dial(address, self.options).await,
        };
        let stream = dialled.map_err(ExchangeError::Dial)?;
        Ok(Connection::to_app(stream, self, address, Open::count(&self.open)))
    }
}

/// Closes kept connections that are too old, or that the app ended.
async fn sweep(home: std::rc::Weak<Home>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(home) = home.upgrade() else { return };
        let mut all = home.idle.borrow_mut();
        for idle in all.values_mut() {
            idle.retain(|kept| kept.since.elapsed() < home.patience && kept.connection.is_quiet());
        }
        all.retain(|_, idle| !idle.is_empty());
        if all.is_empty() {
            home.sweeping.set(false);
            return;
        }
    }
}

/// Sends a request that is in HTTP/1's form already (see [`crate::http::target`]), and waits for its answer's head.
pub async fn send(
    home: &Rc<Home>,
    address: SocketAddr,
    request: Request<Body>,
    upgrade: Option<&Protocol>,
    caller: Caller<'_>,
    mut wait: Wait,
) -> Result<Answer, ExchangeError> {
    let (mut head, body) = request.into_parts();
    // What follows a change of protocol waits for the 101.
    let (body, after) = if upgrade.is_some() { (Body::Empty, Some(body)) } else { (body, None) };
    let delimited = delimit(&mut head, &body);
    let mut body = Some(body);
    loop {
        let kept = home.take(address);
        let fresh = kept.is_none();
        let connection = match kept {
            Some(connection) => connection,
            // On the heap: rare, and each stream would hold its room.
            None => Box::pin(home.dial(address)).await?,
        };
        let out = Outgoing::new(&connection, delimited, |out| write_head(&head, delimited, upgrade, out));
        let transfer = Transfer::new(body.take().unwrap_or_default(), Sink::Http1(out));
        let transfer = if fresh { transfer } else { transfer.holding() };
        let mut upload = Upload(Some(Box::new(transfer)));
        match answer(&connection, &head, &mut upload, caller, &mut wait).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let Some(after) = after.filter(|_| upgrade.is_some()) else {
                    return Err(ExchangeError::Answer(HeadError::Malformed("101, and nobody asked for it")));
                };
                let out = Outgoing::new(&connection, Delimited::Close, |_| {});
                return Ok(Answer {
                    response,
                    upload: Some(Box::new(Transfer::new(after, Sink::Http1(out)))),
                    reset: None,
                    held: None,
                });
            }
            Ok(response) => return Ok(Answer { response, upload: upload.into_rest(), reset: None, held: None }),
            // The app closed a kept connection while we took it. Nothing came back, so the request may go again, if
            // doing it twice is doing it once (RFC 9110 §9.2.2), or if not a byte of it was taken.
            Err(ExchangeError::Closed) if !fresh => {
                let untouched = !connection.has_written();
                match upload.0.and_then(|transfer| transfer.rewind()) {
                    Some(whole) if untouched || head.method.is_idempotent() => body = Some(whole),
                    _ => return Err(ExchangeError::Closed),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Interim answers go to the caller; the final one comes back.
async fn answer(
    connection: &Rc<Connection>,
    asked: &request::Parts,
    upload: &mut Upload,
    caller: Caller<'_>,
    wait: &mut Wait,
) -> Result<Response<Body>, ExchangeError> {
    connection.begin_reading();
    for interim in 0..=MAX_INTERIM {
        let head = read_head(connection, asked, upload, (&mut *wait, interim as u64)).await?;
        let status = head.response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let incoming = Incoming::new(connection, Framing::UntilClose);
            return Ok(head.response.map(|()| Body::http1(incoming)));
        }
        if status.is_informational() {
            caller.interim(status, head.response.into_parts().0.headers);
            continue;
        }
        if !head.keep_alive {
            connection.never_again();
        }
        let incoming = Incoming::new(connection, head.framing);
        if incoming.is_none() {
            connection.end_reading();
        }
        return Ok(head.response.map(|()| Body::http1(incoming)));
    }
    Err(ExchangeError::Answer(HeadError::Malformed("an interim answer that nobody asked for")))
}

/// The next head, while the request's body is still sent.
async fn read_head(
    connection: &Rc<Connection>,
    asked: &request::Parts,
    upload: &mut Upload,
    (wait, interim): (&mut Wait, u64),
) -> Result<ResponseHead, ExchangeError> {
    poll_fn(|cx| {
        if let Err(error) = upload.poll(cx) {
            return Poll::Ready(Err(ExchangeError::Body(error)));
        }
        loop {
            match connection.take_head() {
                Ok(Some(raw)) => {
                    return Poll::Ready(parse(&raw, asked).map_err(ExchangeError::Answer));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(ExchangeError::Answer(error))),
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(ended(connection))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    let moved = upload.moved().wrapping_add(interim);
                    return wait.poll(cx, moved).map(|()| Err(ExchangeError::Late));
                }
            }
        }
    })
    .await
}

fn parse(raw: &Bytes, asked: &request::Parts) -> Result<ResponseHead, HeadError> {
    let mut head = head::parse_response(raw, &asked.method)?;
    if asked.extensions.get::<Names>().is_some() {
        head.response.extensions_mut().insert(Names::of(raw));
    }
    Ok(head)
}

/// An end before an answer; inside one it is another fault.
fn ended(connection: &Connection) -> ExchangeError {
    if connection.with_input(|input| input.is_empty()) {
        ExchangeError::Closed
    } else {
        ExchangeError::Answer(HeadError::Malformed("it ends inside its head"))
    }
}

fn delimit(head: &mut request::Parts, body: &Body) -> Delimited {
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|value| isthmus_http2::head::digits(value.as_bytes()));
    match declared.or_else(|| body.length()) {
        Some(length) => {
            let expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
            if declared.is_none() && (length > 0 || expected) {
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Delimited::Length(length)
        }
        None => {
            head.headers.remove(CONTENT_LENGTH);
            Delimited::Chunked
        }
    }
}

fn write_head(head: &request::Parts, delimited: Delimited, upgrade: Option<&Protocol>, out: &mut BytesMut) {
    write::request(&head.method, &head.uri, &head.headers, head.extensions.get(), out);
    if let Some(protocol) = upgrade {
        write::upgrade(protocol.as_str(), out);
    }
    if delimited == Delimited::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
