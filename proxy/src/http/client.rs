//! The side that faces an app that is called, in plain: kept-alive HTTP/1 connections per address ([`super::h1::exchange`]),
//! one HTTP/2 connection per address for apps called with prior knowledge. One pool per worker; nothing is shared.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::Request;
use isthmus_http2::{Http2Settings, StreamError};

use super::body::{Body, BodyError};
use super::exchange::{Answer, Caller, NoAnswer, over_http2, upload};
use super::h1::exchange::{ExchangeError, Home, send};
use super::patience::{Wait, Waits};
use super::stream::{Awaited, SendHalf};
use super::websockets::Settings;
use crate::reason::Reason;
use crate::tcp::{DialOptions, dial};
use crate::tls::originate::{self, Inside, Origination};

/// What goes wrong with a called app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the app at {0}: {1}")]
    Http1(SocketAddr, ExchangeError),
    #[error("the app at {0} cannot be reached: {1}")]
    Dial(SocketAddr, std::io::Error),
    #[error("the app reset the stream before it answered: {0}")]
    Http2(StreamError),
    #[error("the app at {0} did not answer in time")]
    Late(SocketAddr),
    #[error("the app at {0} takes no WebSockets over HTTP/2: its SETTINGS do not allow extended CONNECT (RFC 8441)")]
    NoWebsockets(SocketAddr),
    #[error("the request's body broke off: {0}")]
    Body(BodyError),
}

impl AppError {
    /// What the caller's stream is reset with: what the app reset its own with, or that the app certainly did not begin
    /// with it (RFC 9113 §8.7), since it was going away: h2 gives a remote GOAWAY to exactly those streams.
    pub fn reset(&self) -> Option<h2::Reason> {
        match self {
            AppError::Http2(error)
                if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) =>
            {
                Some(h2::Reason::REFUSED_STREAM)
            }
            AppError::Http2(error) if error.is_reset() && error.is_remote() => error.reason(),
            _ => None,
        }
    }

    pub fn reason(&self) -> Reason {
        if let AppError::Dial(_, error) | AppError::Http1(_, ExchangeError::Dial(error)) = self
            && let Some(reason) = originate::reason_of(error)
        {
            return reason;
        }
        match self {
            AppError::Dial(_, error) | AppError::Http1(_, ExchangeError::Dial(error))
                if error.kind() == std::io::ErrorKind::TimedOut =>
            {
                Reason::Timeout
            }
            AppError::Http1(_, ExchangeError::Late) | AppError::Late(_) => Reason::Timeout,
            AppError::Http1(_, ExchangeError::Answer(_)) => Reason::MalformedResponse,
            AppError::Http2(error) if error.is_ours() => Reason::MalformedResponse,
            AppError::NoWebsockets(_) => Reason::NoWebsockets,
            AppError::Http1(_, ExchangeError::Body(error)) | AppError::Body(error) => error.reason(),
            AppError::Dial(..) | AppError::Http1(..) | AppError::Http2(_) => Reason::AppUnreachable,
        }
    }
}

/// An app's HTTP/2 connection.
type Line = (SendRequest<Bytes>, Settings);

/// The app-facing client of one worker.
pub struct AppClient {
    options: DialOptions,
    /// Where apps are called in TLS.
    tls: Option<Rc<Origination>>,
    http1: Rc<Home>,
    http2: RefCell<HashMap<SocketAddr, Line>>,
    /// Connections being made: whoever comes meanwhile waits for the same.
    dialling: RefCell<HashMap<SocketAddr, Rc<tokio::sync::Mutex<()>>>>,
    waits: Rc<Waits>,
    open: Rc<Cell<usize>>,
}

/// Where a request goes, and how.
pub struct To<'a> {
    pub address: SocketAddr,
    pub http2: bool,
    /// Connections that belong to its caller alone.
    pub own: Option<&'a Rc<Home>>,
    /// How long the answer's head may take.
    pub limit: Duration,
}

impl AppClient {
    pub fn new(options: DialOptions) -> Rc<AppClient> {
        AppClient::with(options, None)
    }

    /// For servers outside, in TLS that we begin.
    pub fn over_tls(options: DialOptions, tls: Rc<Origination>) -> Rc<AppClient> {
        AppClient::with(options, Some(tls))
    }

    fn with(options: DialOptions, tls: Option<Rc<Origination>>) -> Rc<AppClient> {
        let open = Rc::default();
        let http1 = Home::new(options, tls.clone(), Rc::clone(&open));
        let (http2, dialling, waits) = Default::default();
        Rc::new(AppClient { options, tls, http1, http2, dialling, waits, open })
    }

    /// Connections that one caller's requests have for themselves.
    pub fn home_of_one(&self) -> Rc<Home> {
        Home::of_one(self.options, self.tls.clone(), Rc::clone(&self.open))
    }

    /// A wait for an answer that comes by another way than [`AppClient::send`].
    pub fn wait(&self, limit: Duration) -> Wait {
        self.waits.begin(limit)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// The first of several addresses of one server that takes a connection, to be sent to next.
    pub async fn reach(
        &self,
        places: &[SocketAddr],
        http2: bool,
        own: Option<&Rc<Home>>,
    ) -> Result<SocketAddr, AppError> {
        if let [only] = places {
            return Ok(*only);
        }
        if !http2 {
            let reached = own.unwrap_or(&self.http1).reach(places).await;
            return reached.map_err(|(place, error)| AppError::Http1(place, error));
        }
        let mut failed = None;
        for place in places {
            if self.ready_http2(*place).await.is_some() {
                return Ok(*place);
            }
            match Box::pin(self.dial_once(*place)).await {
                Ok(_) => return Ok(*place),
                Err(error) => failed = Some(error),
            }
        }
        let nobody = || AppError::Dial(SocketAddr::from(([0; 4], 0)), std::io::ErrorKind::AddrNotAvailable.into());
        Err(failed.unwrap_or_else(nobody))
    }

    /// Sends a request that is already in the form its version wants (see [`super::target`]), and waits for the answer's
    /// head.
    pub async fn send(
        &self,
        to: To<'_>,
        request: Request<Body>,
        upgrade: Option<&Protocol>,
        caller: Caller<'_>,
    ) -> Result<Answer, AppError> {
        let (address, wait) = (to.address, self.waits.begin(to.limit));
        if to.http2 {
            self.send_http2(address, request, caller, wait).await
        } else {
            let home = to.own.unwrap_or(&self.http1);
            send(home, address, request, upgrade, caller, wait).await.map_err(|error| AppError::Http1(address, error))
        }
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        request: Request<Body>,
        caller: Caller<'_>,
        mut wait: Wait,
    ) -> Result<Answer, AppError> {
        let (mut sender, settings) = match self.ready_http2(address).await {
            Some(line) => line,
            None => {
                let (sender, settings) = Box::pin(self.dial_once(address)).await?;
                (sender.ready().await.map_err(broken)?, settings)
            }
        };
        let is_websocket = request.extensions().get::<Protocol>().is_some();
        if is_websocket && !Box::pin(settings.allow_websockets(&sender)).await {
            return Err(AppError::NoWebsockets(address));
        }
        let (head, body) = request.into_parts();
        let ends = body.is_empty();
        let (response, stream) = sender.send_request(Request::from_parts(head, ()), ends).map_err(broken)?;
        let mut upload = upload(body, SendHalf::App(stream));
        match over_http2(Awaited::App(response), &mut upload, caller, &mut wait).await {
            Ok(response) => Ok(Answer { response, upload: upload.into_rest(), reset: None, held: None }),
            Err(NoAnswer::Stream(error)) => Err(AppError::Http2(error)),
            Err(NoAnswer::Body(error)) => Err(AppError::Body(error)),
            Err(NoAnswer::Late) => Err(AppError::Late(address)),
        }
    }

    async fn ready_http2(&self, address: SocketAddr) -> Option<Line> {
        let (known, settings) = self.http2.borrow().get(&address).cloned()?;
        Some((known.ready().await.ok()?, settings))
    }

    /// An app that goes away under load is dialled once, and not by each request that was under way. Where that fails,
    /// those that waited try by themselves, at once and all together.
    async fn dial_once(&self, address: SocketAddr) -> Result<Line, AppError> {
        let gate = Rc::clone(self.dialling.borrow_mut().entry(address).or_default());
        if let Ok(_first) = gate.try_lock() {
            let dialled = self.dial_http2(address).await;
            self.dialling.borrow_mut().remove(&address);
            return dialled;
        }
        drop(gate.lock().await);
        match self.ready_http2(address).await {
            Some(line) => Ok(line),
            None => self.dial_http2(address).await,
        }
    }

    async fn dial_http2(&self, address: SocketAddr) -> Result<Line, AppError> {
        let dialled = match &self.tls {
            Some(tls) => tls.dial(address, Inside::Http2).await,
            None => dial(address, self.options).await,
        };
        let stream = dialled.map_err(|error| AppError::Dial(address, error))?;
        let (sender, mut connection) = Http2Settings::APP.client().handshake(stream).await.map_err(broken)?;
        let line = (sender, Settings::of(&mut connection));
        let open = Open::count(&self.open);
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(open);
        });
        self.http2.borrow_mut().insert(address, line.clone());
        Ok(line)
    }
}

fn broken(error: h2::Error) -> AppError {
    AppError::Http2(error.into())
}

/// Counts what is open by being alive.
#[derive(Debug)]
pub(crate) struct Open(Rc<Cell<usize>>);

impl Open {
    pub(crate) fn count(counter: &Rc<Cell<usize>>) -> Open {
        counter.set(counter.get() + 1);
        Open(Rc::clone(counter))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
