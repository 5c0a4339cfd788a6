//! A request's target between HTTP/1 (`Host`, origin-form or absolute-form) and HTTP/2 (`:authority`).

use std::net::SocketAddr;

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};

use crate::reason::Reason;

/// Puts an app's request into the form that HTTP/2 wants: the whole URI, no `Host`. `fallback` is the destination itself,
/// for HTTP/1.0 clients that name no host.
pub fn into_http2<B>(request: &mut Request<B>, fallback: SocketAddr) -> Result<(), Reason> {
    let authority = authority(request, fallback)?;
    request.headers_mut().remove(HOST);
    let path = path(request.uri());
    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|_| Reason::MalformedRequest)?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(())
}

/// Puts a request into the form that an HTTP/1 app wants: origin-form, or `absolute` as to a forward proxy, and one `Host`.
pub fn into_http1<B>(request: &mut Request<B>, absolute: bool) -> Result<(), Reason> {
    let authority = request.uri().authority().cloned();
    if let Some(authority) = authority {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::MalformedRequest)?;
        request.headers_mut().insert(HOST, host);
    }
    if !absolute {
        *request.uri_mut() = Uri::from(path(request.uri()));
    }
    *request.version_mut() = http::Version::HTTP_11;
    Ok(())
}

/// Leaves one name in a request that came as HTTP/2, with which nobody says that `:authority` and `Host` agree: an app that
/// reads the other one would do what was not asked about (RFC 9113 §8.3.1).
pub fn keep_one_host<B>(request: &mut Request<B>) -> Result<(), Reason> {
    let Some(authority) = request.uri().authority() else {
        let several = request.headers().get_all(HOST).iter().nth(1).is_some();
        return if several { Err(Reason::MalformedRequest) } else { Ok(()) };
    };
    if authority.as_str().contains('@') {
        return Err(Reason::MalformedRequest);
    }
    let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if !request.headers().get_all(HOST).iter().all(same) {
        return Err(Reason::MalformedRequest);
    }
    request.headers_mut().remove(HOST);
    Ok(())
}

/// The host that a request is for, without port, as policies compare it.
pub fn host<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.host()),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(without_port),
    }
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// RFC 9112 §3.2: more than one `Host` is refused; absolute-form wins over `Host`.
fn authority<B>(request: &Request<B>, fallback: SocketAddr) -> Result<Authority, Reason> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reason::MalformedRequest);
    }
    if let Some(authority) = request.uri().authority() {
        return refuse_userinfo(authority.clone());
    }
    match host {
        Some(host) if !host.is_empty() => {
            let authority = Authority::try_from(host.as_bytes()).map_err(|_| Reason::MalformedRequest)?;
            refuse_userinfo(authority)
        }
        _ => Authority::try_from(fallback.to_string()).map_err(|_| Reason::MalformedRequest),
    }
}

/// `user@host` names one host to some readers and another to the rest.
fn refuse_userinfo(authority: Authority) -> Result<Authority, Reason> {
    if authority.as_str().contains('@') { Err(Reason::MalformedRequest) } else { Ok(authority) }
}

fn path(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
