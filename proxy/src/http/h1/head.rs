//! A message's head, from its bytes to its parts, in one way or not at all. What RFC 9112 lets a lenient reader repair is
//! refused here: bare LF (§2.2), folded lines (§5.2), space before the colon (§5.1), two framings (§6.3).
//!
//! Names and values are slices of the bytes that came: nothing is copied.

use std::mem::MaybeUninit;

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::framing::{Framing, Lengths};
use super::{MAX_FIELDS, MAX_HEAD};
use crate::reason::Reason;

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error("not HTTP/1: {0}")]
    Malformed(&'static str),
    #[error("its end can be read in more than one way: {0}")]
    Ambiguous(&'static str),
    #[error("the head is larger than {MAX_HEAD} bytes, or has more than {MAX_FIELDS} fields")]
    TooLarge,
    #[error("the head did not come in time")]
    Slow,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl HeadError {
    /// The word for a request; `None`: the connection broke, and nobody is there to be told.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            HeadError::Malformed(_) => Some(Reason::MalformedRequest),
            HeadError::Ambiguous(_) => Some(Reason::AmbiguousFraming),
            HeadError::TooLarge => Some(Reason::HeadersTooLarge),
            HeadError::Slow => Some(Reason::RequestTimeout),
            HeadError::Io(_) => None,
        }
    }
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    pub request: Request<()>,
    pub framing: Framing,
    /// Whether the client wants to ask again on this connection.
    pub keep_alive: bool,
    /// The protocol that the client would rather speak, where a proxy can carry it.
    pub upgrade: Option<Protocol>,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    pub response: Response<()>,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Where the head ends, `searched` bytes being known not to hold its end.
pub fn find_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, HeadError> {
    for place in memchr::memchr_iter(b'\n', &bytes[searched..]) {
        let place = searched + place;
        if place == 0 || bytes[place - 1] != b'\r' {
            return Err(HeadError::Malformed("a line ends without CR"));
        }
        if place >= 3 && bytes[place - 2] == b'\n' {
            return Ok(Some(place + 1));
        }
    }
    Ok(None)
}

/// Whether bytes that are no whole head yet can still become one.
pub fn may_become_request(bytes: &[u8]) -> Result<(), HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    parsed.parse_with_uninit_headers(bytes, &mut fields).map(|_| ()).map_err(syntax)
}

/// `head` is one whole head, as [`find_end`] found it.
pub fn parse_request(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let complete = parsed.parse_with_uninit_headers(head, &mut fields).map_err(syntax)?;
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::Malformed("an incomplete head"));
    };
    if complete != httparse::Status::Complete(head.len()) {
        return Err(HeadError::Malformed("an incomplete head"));
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed("its method"))?;
    let uri = target_uri(&method, head.slice_ref(target.as_bytes()))?;
    let (mut headers, seen) = read_fields(head, parsed.headers)?;
    let version = version(minor);
    if version == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(HeadError::Malformed("no Host (RFC 9112 §3.2)"));
    }
    let framing = seen.lengths.of_request(version)?;
    let keep_alive = keeps_alive(version, &headers, seen.connection);
    if seen.expect && version == Version::HTTP_10 {
        headers.remove(EXPECT); // RFC 9110 §10.1.1
    }
    let upgrade = (seen.upgrade && framing == Framing::None && version == Version::HTTP_11).then(|| upgrade(&headers));
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(RequestHead { request, framing, keep_alive, upgrade: upgrade.flatten() })
}

/// `asked`: the request's method, which decides whether a body follows.
pub fn parse_response(head: &Bytes, asked: &Method) -> Result<ResponseHead, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut fields)
        .map_err(syntax)?;
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Malformed("an incomplete head"));
    };
    if complete != httparse::Status::Complete(head.len()) || !head.starts_with(b"HTTP/1.") {
        return Err(HeadError::Malformed("an incomplete head"));
    }
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Malformed("its status"))?;
    let (headers, seen) = read_fields(head, parsed.headers)?;
    let version = version(minor);
    let framing = seen.lengths.of_response(version, status, asked)?;
    let keep_alive = framing != Framing::UntilClose && keeps_alive(version, &headers, seen.connection);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    Ok(ResponseHead { response, framing, keep_alive })
}

/// Header fields that decide more than their own value.
#[derive(Default)]
struct Seen {
    lengths: Lengths,
    connection: bool,
    expect: bool,
    upgrade: bool,
}

fn read_fields(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<(HeaderMap, Seen), HeadError> {
    // Room for what is added on the way: port, trace, identity.
    let mut headers = HeaderMap::with_capacity(fields.len() + 4);
    let mut seen = Seen::default();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Malformed("a field's name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| HeadError::Malformed("a field's value"))?;
        if name == CONTENT_LENGTH {
            seen.lengths.length(field.value)?;
        } else if name == TRANSFER_ENCODING {
            seen.lengths.coding(field.value)?;
        } else if name == CONNECTION {
            seen.connection = true;
        } else if name == EXPECT {
            seen.expect = true;
        } else if name == UPGRADE {
            seen.upgrade = true;
        }
        headers.append(name, value);
    }
    Ok((headers, seen))
}

/// Origin-form, `*`, or absolute-form; CONNECT has the authority alone (RFC 9112 §3.2).
fn target_uri(method: &Method, target: Bytes) -> Result<Uri, HeadError> {
    let wrong = HeadError::Malformed("its target");
    if target.contains(&b'#') || !target.is_ascii() {
        return Err(wrong);
    }
    if *method == Method::CONNECT {
        return Authority::from_maybe_shared(target).map(Uri::from).map_err(|_| wrong);
    }
    if target.first() == Some(&b'/') || (&*target == b"*" && *method == Method::OPTIONS) {
        return PathAndQuery::from_maybe_shared(target).map(Uri::from).map_err(|_| wrong);
    }
    match Uri::from_maybe_shared(target) {
        Ok(uri) if uri.scheme().is_some() && uri.authority().is_some() => Ok(uri),
        _ => Err(wrong),
    }
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// RFC 9112 §9.3.
fn keeps_alive(version: Version, headers: &HeaderMap, connection: bool) -> bool {
    let by_default = version == Version::HTTP_11;
    if !connection {
        return by_default;
    }
    let named = |token: &[u8]| names(headers, token);
    !named(b"close") && (by_default || named(b"keep-alive"))
}

/// RFC 9110 §7.8. `h2c` would be a second HTTP inside the first, past everybody who reads it: the request goes on as it
/// is, which is an answer that every client understands.
fn upgrade(headers: &HeaderMap) -> Option<Protocol> {
    let mut values = headers.get_all(UPGRADE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let token = value.to_str().ok()?;
    (is_upgrade(token) && names(headers, b"upgrade")).then(|| Protocol::from(token))
}

/// One protocol by name, `websocket` or `SPDY/3.1`, and not HTTP itself.
pub fn is_upgrade(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/+".contains(&byte);
    (1..=32).contains(&token.len()) && token.bytes().all(plain) && !token.eq_ignore_ascii_case("h2c")
}

/// Whether `Connection` names `token`.
fn names(headers: &HeaderMap, token: &[u8]) -> bool {
    let mut tokens = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|named| named.trim_ascii().eq_ignore_ascii_case(token))
}

fn syntax(error: httparse::Error) -> HeadError {
    HeadError::Malformed(match error {
        httparse::Error::TooManyHeaders => return HeadError::TooLarge,
        httparse::Error::HeaderName => "a field's name",
        httparse::Error::HeaderValue => "a field's value",
        httparse::Error::NewLine => "a line's end",
        httparse::Error::Status => "its status",
        httparse::Error::Token => "its first line",
        httparse::Error::Version => "its version",
    })
}
