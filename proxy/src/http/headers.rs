//! Which headers pass. Order matters: what `Connection` names goes first, then what is hop-by-hop by itself, then what
//! only sidecars may say; ours are added after that, so that no app can name them in `Connection` and lose them.
//!
//! A typical message has none of all these: one pass over the names finds that out and allocates nothing.

use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};

/// Says whom the caller is, to the app. From an app itself it is a forgery.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes from a message's head what must not pass. The same for requests and responses, from apps and from peers.
pub fn sanitize(headers: &mut HeaderMap) {
    if !headers.keys().any(is_suspect) {
        return;
    }
    remove_named_by_connection(headers);
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| must_go(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    keep_only_trailers_of_te(headers);
    keep_only_continue_of_expect(headers);
}

/// Removes from trailers what must not pass. Trailers never carry framing, routing or identity (RFC 9110 §6.5.1).
pub fn sanitize_trailers(trailers: &mut HeaderMap) {
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_suspect(name) || **name == HOST || **name == http::header::CONTENT_LENGTH)
        .cloned()
        .collect();
    for name in doomed {
        trailers.remove(name);
    }
}

/// Credentials that the receiver takes for its whole connection (RFC 4559 §6): NTLM and Negotiate.
pub fn are_connection_bound(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION].iter().flat_map(|name| headers.get_all(name)).any(|value| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

/// `isthmus-…`, and every spelling that some app's server folds into the same variable: CGI and WSGI turn `-` into `_`.
pub fn is_internal(name: &str) -> bool {
    matches!(name.as_bytes(), [b'i' | b'I', rest @ ..]
        if rest.len() >= 7 && rest[..6].eq_ignore_ascii_case(b"sthmus") && matches!(rest[6], b'-' | b'_'))
}

/// `x-forwarded-client-cert`, with `_` for `-` in any place.
fn is_forwarded_client_cert(name: &str) -> bool {
    let ours = FORWARDED_CLIENT_CERT;
    name.len() == ours.as_str().len()
        && name.bytes().zip(ours.as_str().bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn is_suspect(name: &HeaderName) -> bool {
    *name == TE || *name == EXPECT || must_go(name)
}

fn must_go(name: &HeaderName) -> bool {
    let text = name.as_str();
    match text.as_bytes()[0] {
        b'c' => *name == CONNECTION,
        b'h' => text == "http2-settings",
        b'i' => is_internal(text),
        b'k' => text == "keep-alive",
        b'p' => text == "proxy-connection",
        b't' => *name == TRANSFER_ENCODING,
        b'u' => *name == UPGRADE,
        b'x' => is_forwarded_client_cert(text),
        _ => false,
    }
}

/// RFC 9110 §7.6.1. `Host` and `Content-Length` cannot be named away: the message would mean something else.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| *name != HOST && *name != http::header::CONTENT_LENGTH && *name != TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The only expectation there is; a proxy passes it on (RFC 9110 §10.1.1), and the app's own 100 comes back.
fn keep_only_continue_of_expect(headers: &mut HeaderMap) {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get(EXPECT).is_some_and(|value| !known(value)) {
        headers.remove(EXPECT);
    }
}

/// The only token of TE that an intermediary may pass on (RFC 9113 §8.2.2); gRPC servers insist on it.
fn keep_only_trailers_of_te(headers: &mut HeaderMap) {
    if !headers.contains_key(TE) {
        return;
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}
