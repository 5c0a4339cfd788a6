//! The headers that two sidecars say to each other. Untrusted input, also from mesh peers: each is read strictly, and
//! taken out of the message in the same step.

use std::fmt::Write as _;
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::reason::Reason;

/// The app's port that an L7 request is for.
pub const PORT: HeaderName = HeaderName::from_static("isthmus-port");
/// The HTTP version that the caller's app speaks, where it is not HTTP/1: the callee's app is spoken to likewise.
pub const VERSION: HeaderName = HeaderName::from_static("isthmus-version");
/// The method of an HTTP/1 request that wants to change its protocol and is not GET: RFC 8441 has CONNECT in its place.
pub const METHOD: HeaderName = HeaderName::from_static("isthmus-method");
/// On a 200 to such a request: the app agreed with 101. Without it the app answered as to any other request.
pub const UPGRADED: HeaderName = HeaderName::from_static("isthmus-upgraded");
/// The caller's app names the whole URI in its request line, as to a forward proxy; the callee's app gets it likewise.
pub const ABSOLUTE: HeaderName = HeaderName::from_static("isthmus-absolute");
/// How the sender spelled its header names, where the service asks for it (see `h1/names.rs`).
pub const NAMES: HeaderName = HeaderName::from_static("isthmus-names");
/// Which tie a request belongs to (see `outbound/pin.rs`): 16 hex digits.
pub const PIN: HeaderName = HeaderName::from_static("isthmus-pin");
/// The `:protocol` of the stream that holds a tie.
pub const PIN_PROTOCOL: &str = "isthmus-pin";
/// How long the callee took: `total=<us>;app=<us>`.
pub const ELAPSED: HeaderName = HeaderName::from_static("isthmus-elapsed");
/// The callee's sidecar has kept its spans of a request that nobody had decided to record: `1`.
pub const KEPT: HeaderName = HeaderName::from_static("isthmus-kept");
/// The word of a refusal. Passed on to the app.
pub const DENIED: HeaderName = HeaderName::from_static("isthmus-denied");
/// Which decision it was, for `isthmus explain`. Passed on to the app.
pub const DECISION: HeaderName = HeaderName::from_static("isthmus-decision");

/// Takes the port out of a mesh request. Missing, repeated or malformed is a refusal.
pub fn take_port(headers: &mut HeaderMap) -> Result<u16, Reason> {
    let port = {
        let mut values = headers.get_all(PORT).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Reason::BadInternalHeader);
        };
        parse_port(value.as_bytes()).ok_or(Reason::BadInternalHeader)?
    };
    headers.remove(PORT);
    Ok(port)
}

/// Decimal, without sign, space or leading zero.
pub fn parse_port(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 5 || text[0] == b'0' || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A port as a header's value.
pub fn port_value(port: u16) -> HeaderValue {
    HeaderValue::from(port)
}

/// Whether the caller's app speaks HTTP/2; taken out of the request.
pub fn take_is_http2(headers: &mut HeaderMap) -> Result<bool, Reason> {
    take_mark(headers, &VERSION, b"2")
}

/// Whether the request line shall name the whole URI; taken out of the request.
pub fn take_is_absolute(headers: &mut HeaderMap) -> Result<bool, Reason> {
    take_mark(headers, &ABSOLUTE, b"1")
}

/// A header that is there with its one value, or not at all.
fn take_mark(headers: &mut HeaderMap, name: &HeaderName, set: &[u8]) -> Result<bool, Reason> {
    match take_one(headers, name)? {
        None => Ok(false),
        Some(value) if value.as_bytes() == set => Ok(true),
        Some(_) => Err(Reason::BadInternalHeader),
    }
}

/// Said twice, two readers could take different ones.
fn take_one(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<HeaderValue>, Reason> {
    if headers.get_all(name).iter().nth(1).is_some() {
        return Err(Reason::BadInternalHeader);
    }
    Ok(headers.remove(name))
}

/// The method of a request that wants to change its protocol; taken out of the request.
pub fn take_method(headers: &mut HeaderMap) -> Result<Method, Reason> {
    match take_one(headers, &METHOD)? {
        None => Ok(Method::GET),
        Some(value) => match Method::from_bytes(value.as_bytes()) {
            Ok(method) if method != Method::CONNECT => Ok(method),
            _ => Err(Reason::BadInternalHeader),
        },
    }
}

/// Takes the tie's id out of a mesh request. Repeated or malformed is a refusal.
pub fn take_pin(headers: &mut HeaderMap) -> Result<Option<u64>, Reason> {
    let mut values = headers.get_all(PIN).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(PIN) { Err(Reason::BadInternalHeader) } else { Ok(None) };
    };
    let digits = value.as_bytes();
    let lower = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = std::str::from_utf8(digits).ok().filter(|_| lower && digits.len() == 16);
    let id = id.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(Reason::BadInternalHeader)?;
    headers.remove(PIN);
    Ok(Some(id))
}

/// The callee's own measurement of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed {
    /// From the request's head to the response's head, in microseconds.
    pub total_us: u64,
    /// The part of it that the app took, in microseconds.
    pub app_us: u64,
}

impl Elapsed {
    pub fn new(total: Duration, app: Duration) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Elapsed { total_us: micros(total), app_us: micros(app) }
    }

    pub fn to_value(self) -> HeaderValue {
        let mut text = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(text, "total={};app={}", self.total_us, self.app_us);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("total=0;app=0"))
    }

    /// Reads the value; a peer's nonsense (app longer than the whole, values beyond a year) is no measurement.
    pub fn parse(text: &[u8]) -> Option<Elapsed> {
        const YEAR_US: u64 = 366 * 86_400 * 1_000_000;
        let (total, app) = std::str::from_utf8(text).ok()?.split_once(';')?;
        let number = |field: &str, name: &str| -> Option<u64> {
            let digits = field.strip_prefix(name)?;
            (!digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit()))
                .then(|| digits.parse().ok())?
        };
        let elapsed = Elapsed { total_us: number(total, "total=")?, app_us: number(app, "app=")? };
        (elapsed.app_us <= elapsed.total_us && elapsed.total_us <= YEAR_US).then_some(elapsed)
    }

    /// Takes the measurement out of a mesh response.
    pub fn take(headers: &mut HeaderMap) -> Option<Elapsed> {
        headers.remove(ELAPSED).and_then(|value| Elapsed::parse(value.as_bytes()))
    }
}
