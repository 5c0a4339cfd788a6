//! The side that faces an app that is called, in plain: a pool of kept-alive HTTP/1 connections per address, one HTTP/2
//! connection per address for apps called with prior knowledge. One pool per worker; nothing is shared.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use http::{Request, Response};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::body::{Body, pump};
use super::server::Http2Settings;
use crate::reason::Reason;
use crate::tcp::{DialOptions, dial};

/// Kept-alive connections per address that wait for work. More are closed when their answer is done.
const MAX_IDLE: usize = 64;
/// An idle connection older than this is not used again.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// What goes wrong with a called app.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the app at {0} cannot be reached: {1}")]
    Dial(SocketAddr, std::io::Error),
    #[error("the app closed the connection before it answered: {0}")]
    Http1(hyper::Error),
    #[error("the app reset the stream before it answered: {0}")]
    Http2(h2::Error),
}

impl AppError {
    pub fn reason(&self) -> Reason {
        match self {
            AppError::Dial(_, error) if error.kind() == std::io::ErrorKind::TimedOut => Reason::Timeout,
            AppError::Dial(..) | AppError::Http1(_) | AppError::Http2(_) => Reason::AppUnreachable,
        }
    }
}

type Sender = SendRequest<Body>;

struct Idle {
    sender: Sender,
    since: Instant,
}

/// The app-facing client of one worker.
pub struct AppClient {
    options: DialOptions,
    http1: RefCell<HashMap<SocketAddr, VecDeque<Idle>>>,
    http2: RefCell<HashMap<SocketAddr, h2::client::SendRequest<Bytes>>>,
    open: Rc<Cell<usize>>,
}

/// An HTTP/1 connection in use; it goes back to the pool when the answer's body was read to its end, and is closed when
/// dropped before that.
pub struct Lease {
    client: Rc<AppClient>,
    address: SocketAddr,
    sender: Sender,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.address)
    }
}

impl Lease {
    pub fn give_back(self) {
        let mut pool = self.client.http1.borrow_mut();
        let idle = pool.entry(self.address).or_default();
        let now = Instant::now();
        while idle.front().is_some_and(|oldest| now.duration_since(oldest.since) > IDLE_LIMIT) {
            idle.pop_front();
        }
        if idle.len() < MAX_IDLE && !self.sender.is_closed() {
            idle.push_back(Idle { sender: self.sender, since: now });
        }
    }
}

impl AppClient {
    pub fn new(options: DialOptions) -> Rc<AppClient> {
        Rc::new(AppClient { options, http1: RefCell::default(), http2: RefCell::default(), open: Rc::default() })
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Sends a request that is already in the form its version wants (see [`super::target`]).
    pub async fn send(
        self: &Rc<Self>,
        address: SocketAddr,
        request: Request<Body>,
        http2: bool,
    ) -> Result<Response<Body>, AppError> {
        if http2 { self.send_http2(address, request).await } else { self.send_http1(address, request).await }
    }

    async fn send_http1(
        self: &Rc<Self>,
        address: SocketAddr,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        loop {
            let kept = self.take_idle(address).await;
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.dial_http1(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease { client: Rc::clone(self), address, sender };
                    return Ok(response.map(|incoming| Body::http1(incoming, Some(lease))));
                }
                // The app closed a kept-alive connection while we took it: nothing was sent, so the request is whole.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(AppError::Http1(error.into_error())),
                },
            }
        }
    }

    /// The youngest connection that is ready; closed ones are dropped on the way.
    async fn take_idle(&self, address: SocketAddr) -> Option<Sender> {
        poll_fn(|cx| {
            let mut pool = self.http1.borrow_mut();
            let Some(idle) = pool.get_mut(&address) else {
                return Poll::Ready(None);
            };
            let mut place = idle.len();
            while place > 0 {
                place -= 1;
                match idle[place].sender.poll_ready(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(idle.remove(place).map(|idle| idle.sender)),
                    Poll::Ready(Err(_)) => drop(idle.remove(place)),
                    Poll::Pending => {}
                }
            }
            Poll::Ready(None)
        })
        .await
    }

    async fn dial_http1(&self, address: SocketAddr) -> Result<Sender, AppError> {
        let stream = dial(address, self.options).await.map_err(|error| AppError::Dial(address, error))?;
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(AppError::Http1)?;
        let open = Open::count(&self.open);
        // Ends when the app closes, or when its sender is dropped.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(open);
        });
        Ok(sender)
    }

    async fn send_http2(
        self: &Rc<Self>,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Body>, AppError> {
        let known = self.http2.borrow().get(&address).cloned();
        let ready = match known {
            Some(sender) => sender.ready().await.ok(),
            None => None,
        };
        let mut sender = match ready {
            Some(sender) => sender,
            None => self.dial_http2(address).await?.ready().await.map_err(AppError::Http2)?,
        };
        let (head, body) = request.into_parts();
        let ends = body.is_empty();
        let (response, stream) = sender.send_request(Request::from_parts(head, ()), ends).map_err(AppError::Http2)?;
        if !ends {
            // Ends with the body or with the stream, whichever is first.
            tokio::task::spawn_local(pump(body, stream));
        }
        Ok(response.await.map_err(AppError::Http2)?.map(Body::http2))
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
