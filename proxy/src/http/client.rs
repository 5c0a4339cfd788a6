//! The side that faces an app that is called, in plain: kept-alive HTTP/1 connections per address ([`super::h1::exchange`]),
//! one HTTP/2 connection per address for apps called with prior knowledge. One pool per worker; nothing is shared.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;
use h2::ext::Protocol;
use http::Request;

use super::body::{Body, BodyError};
use super::exchange::{Answer, Caller, NoAnswer, over_http2, upload};
use super::h1::exchange::{ExchangeError, Home, send};
use super::server::Http2Settings;
use crate::reason::Reason;
use crate::tcp::{DialOptions, dial};

/// What goes wrong with a called app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the app at {0}: {1}")]
    Http1(SocketAddr, ExchangeError),
    #[error("the app at {0} cannot be reached: {1}")]
    Dial(SocketAddr, std::io::Error),
    #[error("the app reset the stream before it answered: {0}")]
    Http2(h2::Error),
    #[error("the request's body broke off: {0}")]
    Body(BodyError),
}

impl AppError {
    /// What the app reset the stream with.
    pub fn reset(&self) -> Option<h2::Reason> {
        match self {
            AppError::Http2(error) if error.is_reset() && error.is_remote() => error.reason(),
            _ => None,
        }
    }

    pub fn reason(&self) -> Reason {
        match self {
            AppError::Dial(_, error) | AppError::Http1(_, ExchangeError::Dial(error))
                if error.kind() == std::io::ErrorKind::TimedOut =>
            {
                Reason::Timeout
            }
            AppError::Http1(_, ExchangeError::Answer(_)) => Reason::MalformedResponse,
            AppError::Http1(_, ExchangeError::Body(error)) | AppError::Body(error) => error.reason(),
            AppError::Dial(..) | AppError::Http1(..) | AppError::Http2(_) => Reason::AppUnreachable,
        }
    }
}

/// The app-facing client of one worker.
pub struct AppClient {
    options: DialOptions,
    http1: Rc<Home>,
    http2: RefCell<HashMap<SocketAddr, h2::client::SendRequest<Bytes>>>,
    open: Rc<Cell<usize>>,
}

impl AppClient {
    pub fn new(options: DialOptions) -> Rc<AppClient> {
        let open = Rc::default();
        let http1 = Home::new(options, Rc::clone(&open));
        Rc::new(AppClient { options, http1, http2: RefCell::default(), open })
    }

    /// Connections that one caller's requests have for themselves.
    pub fn home_of_one(&self) -> Rc<Home> {
        Home::of_one(self.options, Rc::clone(&self.open))
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Sends a request that is already in the form its version wants (see [`super::target`]), and waits for the answer's
    /// head.
    pub async fn send(
        &self,
        address: SocketAddr,
        request: Request<Body>,
        http2: bool,
        upgrade: Option<&Protocol>,
        own: Option<&Rc<Home>>,
        caller: Caller<'_>,
    ) -> Result<Answer, AppError> {
        if http2 {
            self.send_http2(address, request, caller).await
        } else {
            let home = own.unwrap_or(&self.http1);
            send(home, address, request, upgrade, caller).await.map_err(|error| AppError::Http1(address, error))
        }
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        request: Request<Body>,
        caller: Caller<'_>,
    ) -> Result<Answer, AppError> {
        let known = self.http2.borrow().get(&address).cloned();
        let ready = match known {
            Some(sender) => sender.ready().await.ok(),
            None => None,
        };
        let mut sender = match ready {
            Some(sender) => sender,
            None => Box::pin(self.dial_http2(address)).await?.ready().await.map_err(AppError::Http2)?,
        };
        let (head, body) = request.into_parts();
        let ends = body.is_empty();
        let (response, stream) = sender.send_request(Request::from_parts(head, ()), ends).map_err(AppError::Http2)?;
        let mut upload = upload(body, stream);
        match over_http2(response, &mut upload, caller).await {
            Ok(response) => Ok(Answer { response: response.map(Body::http2), upload: upload.into_rest(), reset: None }),
            Err(NoAnswer::Stream(error)) => Err(AppError::Http2(error)),
            Err(NoAnswer::Body(error)) => Err(AppError::Body(error)),
        }
    }

    async fn dial_http2(&self, address: SocketAddr) -> Result<h2::client::SendRequest<Bytes>, AppError> {
        let stream = dial(address, self.options).await.map_err(|error| AppError::Dial(address, error))?;
        let (sender, connection) = Http2Settings::APP.client().handshake(stream).await.map_err(AppError::Http2)?;
        let open = Open::count(&self.open);
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(open);
        });
        self.http2.borrow_mut().insert(address, sender.clone());
        Ok(sender)
    }
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
