//! The one place that turns a refusal into an answer: the reason's status, its word in `isthmus-denied` and as the body,
//! the decision's id. A gRPC caller gets a trailers-only response, because gRPC libraries do not look at HTTP statuses.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::body::Body;
use super::internal::{DECISION, DENIED};
use crate::reason::Reason;

/// Whether the caller is a gRPC client, by its request's content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && matches!(value.get(16), None | Some(b'+' | b';'))
    })
}

/// The answer to a request that is refused.
pub fn refusal(reason: Reason, decision: Option<&str>, grpc: bool) -> Response<Body> {
    let mut response = if grpc { grpc_refusal(reason) } else { http_refusal(reason) };
    let headers = response.headers_mut();
    headers.insert(DENIED, HeaderValue::from_static(reason.word()));
    if let Some(decision) = decision.and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(DECISION, decision);
    }
    response
}

fn http_refusal(reason: Reason) -> Response<Body> {
    let mut response = Response::new(Body::word(reason.word()));
    *response.status_mut() = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    // Survives the mesh connection, which frames by itself: the caller's HTTP/1 then needs no chunks.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(reason.word().len()));
    response
}

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Trailers-Only".
fn grpc_refusal(reason: Reason) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(grpc_status(reason)));
    headers.insert("grpc-message", HeaderValue::from_static(reason.word()));
    response
}

/// As gRPC's own mapping from HTTP statuses has it: PERMISSION_DENIED, INTERNAL, UNAVAILABLE.
fn grpc_status(reason: Reason) -> &'static str {
    match reason.status() {
        403 => "7",
        400 => "13",
        _ => "14",
    }
}
