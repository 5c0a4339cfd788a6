//! One call of a proxy's: the stream's request to the service that it names, and the service's answer back, as fast as the
//! peer takes it. A call ends when its answer has, and at once when the peer resets it or the connection ends.

use super::Peer;
use isthmus_http2::{GRPC_TIMEOUT, RecvStream, SendResponse, SendStream, StreamError, grpc_timeout};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;
use tower::Service as _;

/// Reads the request to the service, and writes what it answers.
pub(super) async fn answer(routes: Routes, peer: Peer, request: Request<RecvStream>, mut respond: SendResponse) {
    // Boxed: a stream lasts for days after its head.
    let Some(response) = Box::pin(ask(routes, peer, request, &mut respond)).await else { return };
    let (head, body) = response.into_parts();
    let ends = tonic::codegen::Body::is_end_stream(&body);
    // An error is a caller that is gone.
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ends) else { return };
    drop(respond);
    if !ends {
        send(body, stream).await;
    }
}

/// `None`: the caller has gone before there was an answer.
async fn ask(
    mut routes: Routes,
    peer: Peer,
    request: Request<RecvStream>,
    respond: &mut SendResponse,
) -> Option<Response<Body>> {
    let mut request = request.map(Incoming);
    request.extensions_mut().insert(peer);
    let limit = request.headers().get(GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.as_bytes()));
    let call = routes.call(request);
    let within = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, call).await,
            None => Ok(call.await),
        }
    };
    tokio::select! {
        biased;
        answer = within => Some(match answer {
            Ok(Ok(response)) => response,
            Err(_) => Status::cancelled("the call's own time is over").into_http(),
        }),
        _ = poll_fn(|cx| respond.poll_reset(cx)) => None,
    }
}

/// Nothing is taken from the service that the peer has no room for, but for one piece.
async fn send(mut body: Body, mut stream: SendStream) {
    loop {
        let next = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            tonic::codegen::Body::poll_frame(Pin::new(&mut body), cx).map(Some)
        });
        let Some(next) = next.await else { return };
        let frame = match next {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return stream.send_reset(isthmus_http2::Reason::INTERNAL_ERROR),
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        };
        let frame = match frame.into_data() {
            Ok(piece) => {
                if send_piece(piece, &mut stream).await.is_err() {
                    return;
                }
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            let _ = stream.send_trailers(trailers);
            return;
        }
    }
}

async fn send_piece(mut piece: Bytes, stream: &mut SendStream) -> Result<(), StreamError> {
    while !piece.is_empty() {
        let room = poll_fn(|cx| stream.poll_room(cx)).await?;
        stream.send_data(piece.split_to(room.min(piece.len())), false)?;
    }
    Ok(())
}

/// A request's body, as services read it.
struct Incoming(RecvStream);

impl tonic::codegen::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if let Some(piece) = ready!(self.0.poll_taken(cx)) {
            return Poll::Ready(Some(piece.map(http_body::Frame::data).map_err(|error| broken(&error))));
        }
        let trailers = ready!(self.0.poll_trailers(cx)).map_err(|error| broken(&error));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(http_body::Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

fn broken(error: &StreamError) -> Status {
    match error {
        StreamError::Reset { remote: true, .. } => Status::cancelled(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}
