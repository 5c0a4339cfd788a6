//! A request with whoever waits for its answer, and an answer with what is still sent of its request: the two ends of one
//! exchange, the same for both versions of HTTP.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, Request, Response, StatusCode};
use isthmus_http2::{MAX_INTERIM, StreamError};

use super::body::{Body, BodyError};
use super::h1::{self, Connection};
use super::headers::sanitize;
use super::patience::Wait;
use super::stream::{Awaited, Respond, SendHalf};
use super::transfer::Transfer;

/// A request, and who waits.
#[derive(Debug)]
pub struct Asked<'a> {
    pub request: Request<Body>,
    /// The head as it came, for HTTP/1: another try can begin from it.
    pub raw: Option<Bytes>,
    /// An HTTP/1 client wants to change to this; the request's body is then what it will send after that.
    pub upgrade: Option<Protocol>,
    pub caller: Caller<'a>,
}

/// Who waits for an answer: takes interim ones (1xx) meanwhile.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// `None`: HTTP/1.0, which knows no interim answers.
    Http1(Option<&'a Rc<Connection>>),
    Http2(&'a RefCell<Respond>),
}

impl Caller<'_> {
    /// The number of its stream, where that is one of a mesh connection; else zero.
    pub fn stream_id(&self) -> u32 {
        match self {
            Caller::Http1(_) => 0,
            // Borrowed only while it is asked something.
            Caller::Http2(respond) => respond.try_borrow().map_or(0, |respond| respond.stream_id()),
        }
    }

    /// Passes an interim answer on, as far as it can be.
    pub fn interim(&self, status: StatusCode, mut headers: HeaderMap) {
        sanitize(&mut headers);
        match self {
            Caller::Http1(Some(connection)) => h1::server::write_interim(connection, status, &headers),
            Caller::Http1(None) => {}
            Caller::Http2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                respond.borrow_mut().send_informational(response);
            }
        }
    }
}

/// An answer; `upload`: what is still to be sent of the request's body.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Body>,
    pub upload: Option<Box<Transfer>>,
    /// What a caller in HTTP/2 gets in place of the response: the app's own reset.
    pub reset: Option<h2::Reason>,
    /// Dropped when the answer has been sent to its end, or never will be.
    pub held: Option<Box<dyn Any>>,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Answer { response, upload: None, reset: None, held: None }
    }
}

/// The request's body on its way, while its answer is awaited.
#[derive(Debug, Default)]
pub struct Upload(pub Option<Box<Transfer>>);

impl Upload {
    /// Moves the body. An error is one of its sender; a receiver that wants no more may still answer.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(transfer) = &mut self.0 else { return Ok(()) };
        match transfer.poll(cx) {
            Poll::Ready(Err(error)) if !error.is_receivers() => Err(error),
            Poll::Ready(Ok(()) | Err(_)) if transfer.is_holding() => Ok(()),
            Poll::Ready(Ok(()) | Err(_)) => {
                self.0 = None;
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Grows while the body moves.
    pub fn moved(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, |transfer| transfer.moved())
    }

    /// Keeps what it sends until the answer began.
    pub fn holding(self) -> Upload {
        Upload(self.0.map(|transfer| Box::new(transfer.holding())))
    }

    /// Whether [`Upload::rewind`] can give the whole body back.
    pub fn is_whole(&self, had_none: bool) -> bool {
        self.0.as_ref().map_or(had_none, |transfer| transfer.is_holding())
    }

    /// The whole body, where all that was sent is still held. `had_none`: there was none from the beginning; a body that
    /// went to its end without being held is gone as well, and is not nothing.
    pub fn rewind(self, had_none: bool) -> Option<Body> {
        match self.0 {
            Some(transfer) => transfer.rewind(),
            None => had_none.then_some(Body::Empty),
        }
    }

    /// What is left to send, now that the answer began.
    pub fn into_rest(self) -> Option<Box<Transfer>> {
        self.0.and_then(Transfer::into_rest)
    }

    /// To its end.
    pub async fn run(&mut self) -> Result<(), BodyError> {
        poll_fn(|cx| match self.poll(cx) {
            Ok(()) if self.0.is_some() => Poll::Pending,
            done => Poll::Ready(done),
        })
        .await
    }
}

/// Why an HTTP/2 stream brought no answer.
#[derive(Debug)]
pub enum NoAnswer {
    Stream(StreamError),
    /// The request's body broke.
    Body(BodyError),
    /// Nothing came in time.
    Late,
}

/// Sends a request's body into its stream and waits for the answer's head. `holding`: until then the body is kept, so that
/// [`Upload`] can give it back.
pub async fn over_http2(
    mut response: Awaited,
    upload: &mut Upload,
    caller: Caller<'_>,
    wait: &mut Wait,
) -> Result<Response<Body>, NoAnswer> {
    let mut interim = 0;
    poll_fn(|cx| {
        upload.poll(cx).map_err(NoAnswer::Body)?;
        while let Poll::Ready(early) = response.poll_interim(cx) {
            let (head, ()) = early.map_err(NoAnswer::Stream)?.into_parts();
            interim += 1;
            if interim <= MAX_INTERIM && head.status != StatusCode::SWITCHING_PROTOCOLS {
                caller.interim(head.status, head.headers);
            }
        }
        match response.poll_head(cx) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(NoAnswer::Stream)),
            Poll::Pending => {
                let moved = upload.moved().wrapping_add(interim as u64);
                wait.poll(cx, moved).map(|()| Err(NoAnswer::Late))
            }
        }
    })
    .await
}

/// The body of a request into its stream; nothing, where there is none.
pub fn upload(body: Body, stream: SendHalf) -> Upload {
    Upload((!body.is_empty()).then(|| Box::new(Transfer::into_stream(body, stream))))
}
