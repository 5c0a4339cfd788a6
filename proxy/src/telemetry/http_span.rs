//! What OpenTelemetry's semantic conventions say of a request: those of HTTP, which are stable, and for gRPC those of RPC in
//! their release candidate (`rpc.system.name`, `rpc.response.status_code`), which take the place of what was before.
//!
//! Names and words come from finite lists, but for a gRPC method's; values of query parameters that carry credentials
//! are never written, as in the access log.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{Method, StatusCode, Uri};

use super::access_line::push_query;
use super::span::{Kind, Span, Status};

/// What a method is called that is none of RFC 9110's or PATCH.
const OTHER: &str = "_OTHER";

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct AskedFor<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub http2: bool,
    pub grpc: bool,
}

/// The method as the conventions have it, where it is one that everybody knows.
pub fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [(&Method, &str); 9] = [
        (&Method::GET, "GET"),
        (&Method::POST, "POST"),
        (&Method::PUT, "PUT"),
        (&Method::DELETE, "DELETE"),
        (&Method::HEAD, "HEAD"),
        (&Method::OPTIONS, "OPTIONS"),
        (&Method::PATCH, "PATCH"),
        (&Method::CONNECT, "CONNECT"),
        (&Method::TRACE, "TRACE"),
    ];
    KNOWN.into_iter().find(|(known, _)| *known == method).map(|(_, word)| word)
}

impl AskedFor<'_> {
    /// `GET`, or `HTTP` for methods of one's own; a gRPC method's full name. Paths would be as many as there are requests.
    pub fn name(&self) -> Cow<'static, str> {
        match self.rpc_method() {
            Some(method) => Cow::Owned(method.to_owned()),
            None => Cow::Borrowed(known_method(self.method).unwrap_or("HTTP")),
        }
    }

    /// `package.Service/Method`
    fn rpc_method(&self) -> Option<&str> {
        if !self.grpc {
            return None;
        }
        let path = self.uri.path().strip_prefix('/').filter(|path| path.len() < 200)?;
        path.split_once('/').is_some_and(|(service, method)| !service.is_empty() && !method.is_empty()).then_some(path)
    }

    /// All that the conventions ask for of the request. `to`: who is asked where the request names nobody.
    pub fn describe(&self, span: &mut Span, to: IpAddr) {
        match known_method(self.method) {
            Some(method) => span.set("http.request.method", method),
            None => {
                span.set("http.request.method", OTHER);
                span.set("http.request.method_original", self.method.as_str());
            }
        }
        if self.grpc {
            span.set("rpc.system.name", "grpc");
            span.set_some("rpc.method", self.rpc_method());
        }
        span.set("network.protocol.version", if self.http2 { "2" } else { "1.1" });
        let query = self.uri.query().map(|query| {
            let mut text = String::with_capacity(query.len());
            push_query(&mut text, query, &[]);
            text
        });
        let scheme = self.uri.scheme_str().filter(|scheme| *scheme == "https").map_or("http", |_| "https");
        let path = self.uri.path();
        let authority = self.uri.authority().map(|authority| without_credentials(authority.as_str()));
        if span.kind == Kind::Server {
            span.set("url.scheme", scheme);
            span.set("url.path", path);
            span.set_some("url.query", query.as_deref());
        } else {
            let (mark, query) = query.as_deref().map_or(("", ""), |query| ("?", query));
            span.set("url.full", [scheme, "://", authority.unwrap_or_default(), path, mark, query]);
        }
        match authority {
            Some(authority) => span.set("server.address", without_port(authority)),
            None => span.set("server.address", to),
        }
    }
}

/// Method and path of a request, on the stack: for a span that nobody has decided to record and that may be kept after all.
#[derive(Debug, Clone, Copy)]
pub struct Brief {
    method: &'static str,
    http2: bool,
    grpc: bool,
    path: [u8; BRIEF],
    length: u8,
}

/// So much of the path is remembered.
const BRIEF: usize = 80;

impl Brief {
    pub fn of(asked: AskedFor<'_>) -> Brief {
        let (mut path, whole) = ([0; BRIEF], asked.uri.path().as_bytes());
        let length = whole.len().min(BRIEF);
        path[..length].copy_from_slice(&whole[..length]);
        let method = known_method(asked.method).unwrap_or(OTHER);
        Brief { method, http2: asked.http2, grpc: asked.grpc, path, length: u8::try_from(length).unwrap_or(0) }
    }

    fn path(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.path[..usize::from(self.length)])
    }

    pub fn name(&self) -> Cow<'static, str> {
        match self.path().strip_prefix('/').filter(|path| self.grpc && path.contains('/')) {
            Some(method) => Cow::Owned(method.to_owned()),
            None => Cow::Borrowed(if self.method == OTHER { "HTTP" } else { self.method }),
        }
    }

    pub fn describe(&self, span: &mut Span, to: IpAddr) {
        span.set("http.request.method", self.method);
        if self.grpc {
            span.set("rpc.system.name", "grpc");
        }
        span.set("network.protocol.version", if self.http2 { "2" } else { "1.1" });
        span.set("url.path", &*self.path());
        span.set("server.address", to);
    }
}

/// What is remembered of a request that waits for its answer: as much as may be told of it.
#[derive(Debug)]
pub enum Remembered {
    Nothing,
    Whole(Method, Uri),
    Brief(Brief),
}

impl Remembered {
    /// `told`: somebody is told of it in any case; `may_keep`: perhaps, by how it ends.
    pub fn of(asked: AskedFor<'_>, told: bool, may_keep: bool) -> Remembered {
        match (told, may_keep) {
            (true, _) => Remembered::Whole(asked.method.clone(), asked.uri.clone()),
            (false, true) => Remembered::Brief(Brief::of(asked)),
            (false, false) => Remembered::Nothing,
        }
    }

    pub fn whole(&self) -> Option<(&Method, &Uri)> {
        if let Remembered::Whole(method, uri) = self { Some((method, uri)) } else { None }
    }

    pub fn brief(&self) -> Option<&Brief> {
        if let Remembered::Brief(brief) = self { Some(brief) } else { None }
    }
}

/// `user:password@` is nobody's business.
fn without_credentials(authority: &str) -> &str {
    memchr::memrchr(b'@', authority.as_bytes()).map_or(authority, |at| &authority[at + 1..])
}

/// The host of what was parsed as an authority; of an address of IPv6 without its brackets.
fn without_port(authority: &str) -> &str {
    let (host, end) = authority.strip_prefix('[').map_or((authority, b':'), |address| (address, b']'));
    memchr::memchr(end, host.as_bytes()).map_or(host, |at| &host[..at])
}

/// The answer's status; `reason`: of a refusal by either sidecar. 4xx is the caller's fault, and so an error of the one who
/// asked only.
pub fn answered(span: &mut Span, status: StatusCode, reason: Option<&'static str>) {
    span.set("http.response.status_code", status.as_u16());
    span.set_some("isthmus.reason", reason);
    let failed = status.is_server_error() || (span.kind != Kind::Server && status.is_client_error());
    match reason {
        _ if !failed => {}
        Some(word) => span.fail(word),
        None => {
            span.set("error.type", status.as_str());
            // The code says it all: the conventions leave the description out then.
            span.status = Status::Error("");
        }
    }
}

/// gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Of these a server is to blame: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const SERVERS_FAULT: [usize; 6] = [2, 4, 12, 13, 14, 15];

/// `grpc-status`, from a head that is all there is or from trailers.
pub fn grpc_answered(span: &mut Span, code: &[u8]) {
    let code = std::str::from_utf8(code).ok().and_then(|code| code.parse::<usize>().ok());
    let Some(code) = code.filter(|code| *code < CODES.len()) else { return };
    span.set("rpc.response.status_code", CODES[code]);
    if code != 0 && span.status == Status::Unset && (span.kind != Kind::Server || SERVERS_FAULT.contains(&code)) {
        span.fail(CODES[code]);
    }
}

#[cfg(test)]
#[path = "http_span_test.rs"]
mod http_span_test;
