//! The one place that turns a refusal into an answer: the reason's status, its word in `isthmus-denied` and as the body,
//! the decision's id. A gRPC caller gets a trailers-only response, because gRPC libraries do not look at HTTP statuses.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use isthmus_http2::{GRPC_MESSAGE, GRPC_STATUS};
use prost::Message as _;

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
    let mut response = if grpc { grpc_refusal(reason, decision) } else { http_refusal(reason) };
    let headers = response.headers_mut();
    headers.insert(DENIED, HeaderValue::from_static(reason.word()));
    if let Some(decision) = decision.and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(DECISION, decision);
    }
    response
}

/// The same, and where the caller may ask instead (RFC 9110, 15.4.9: the method stays).
pub fn sent_to(mut refusal: Response<Body>, location: HeaderValue) -> Response<Body> {
    *refusal.status_mut() = StatusCode::PERMANENT_REDIRECT;
    refusal.headers_mut().insert(LOCATION, location);
    refusal
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
fn grpc_refusal(reason: Reason, decision: Option<&str>) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(reason)));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.word()));
    if let Ok(details) = HeaderValue::from_str(&status_details(reason, decision)) {
        headers.insert("grpc-status-details-bin", details);
    }
    response
}

/// `google.rpc.Status` with one `google.rpc.ErrorInfo`, as gRPC libraries hand it to the app: the word and the decision's
/// id, and nothing else.
fn status_details(reason: Reason, decision: Option<&str>) -> String {
    let info = ErrorInfo {
        reason: reason.word().to_owned(),
        domain: "mesh.isthmus.dev".to_owned(),
        metadata: decision.map(|id| ("decision".to_owned(), id.to_owned())).into_iter().collect(),
    };
    let detail = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: info.encode_to_vec() };
    let code = grpc_status(reason).parse().unwrap_or(2);
    let status = RpcStatus { code, message: reason.word().to_owned(), details: vec![detail] };
    // Without padding, as gRPC writes binary headers.
    STANDARD_NO_PAD.encode(status.encode_to_vec())
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
}

/// As gRPC's own mapping from HTTP statuses has it: PERMISSION_DENIED, INTERNAL, UNAVAILABLE; and DEADLINE_EXCEEDED.
fn grpc_status(reason: Reason) -> &'static str {
    match reason.status() {
        403 => "7",
        400 => "13",
        501 => "12",
        504 => "4",
        _ => "14",
    }
}

#[cfg(test)]
#[path = "respond_test.rs"]
mod respond_test;
