//! An HTTP/1.1 server that tells its caller what it saw, as JSON: `{"method","path","headers":{name:value},"body",
//! "peer","tls"}`. Repeated headers are joined with ", ". `/status/<code>`, `/bytes/<count>` and `/delay/<ms>` do that.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::server::{Counts, Server};
use super::tls::SelfSigned;
use crate::error::Error;
use crate::host::Host;

/// The largest request body that is echoed; more is answered 413.
const BODY_BYTES: usize = 16 << 20;

/// The most that `/bytes/<count>` sends.
const REPLY_BYTES: usize = 256 << 20;

/// The longest that `/delay/<ms>` waits.
const DELAY: Duration = Duration::from_secs(60);

/// A plain HTTP/1.1 server in `host`.
///
/// # Errors
/// When the address cannot be listened on.
pub fn http_server(host: &Host, address: SocketAddr) -> Result<Server, Error> {
    Server::start(host, address, |stream, peer, counts| async move {
        // Small answers must not wait for the delayed ACK of the last one.
        let _ = stream.set_nodelay(true);
        serve(stream, peer, None, counts).await;
    })
}

/// The same over TLS 1.2 and 1.3, with a certificate that nobody else knows: an application's own TLS.
///
/// # Errors
/// When the address cannot be listened on.
pub fn https_server(host: &Host, address: SocketAddr, certificate: &SelfSigned) -> Result<Server, Error> {
    let acceptor = TlsAcceptor::from(certificate.server_config());
    Server::start(host, address, move |stream, peer, counts| {
        let acceptor = acceptor.clone();
        async move {
            let _ = stream.set_nodelay(true);
            // A failed handshake is the client's to notice; the app has nobody to tell.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let version = stream.get_ref().1.protocol_version().map(|version| format!("{version:?}"));
            serve(stream, peer, version, counts).await;
        }
    })
}

async fn serve<S>(stream: S, peer: SocketAddr, tls: Option<String>, counts: Arc<Counts>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let tls = tls.clone();
        async move { Ok::<_, Infallible>(answer(request, peer, tls).await) }
    });
    // The peer may go at any time; a broken connection is the end of it and nothing else.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    tls: Option<String>,
) -> hyper::Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let mut parts = path.split('/').skip(1);
    let order = (parts.next().unwrap_or_default(), parts.next().and_then(|number| number.parse::<usize>().ok()));
    match order {
        ("bytes", Some(count)) => return reply(200, Bytes::from(vec![b'x'; count.min(REPLY_BYTES)])),
        ("delay", Some(milliseconds)) => {
            tokio::time::sleep(Duration::from_millis(milliseconds as u64).min(DELAY)).await;
        }
        _ => {}
    }
    let status = match order {
        ("status", Some(code)) => u16::try_from(code).unwrap_or(500),
        _ => 200,
    };
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES).collect().await else {
        return reply(413, Bytes::from_static(b"too large or broken off\n"));
    };
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or(path.as_str(), |path| path.as_str()),
        "headers": headers(&head.headers),
        "body": String::from_utf8_lossy(&body.to_bytes()),
        "peer": peer.to_string(),
        "tls": tls,
    });
    reply(status, Bytes::from(seen.to_string()))
}

fn headers(headers: &hyper::HeaderMap) -> Value {
    let joined =
        |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>();
    let map: Map<String, Value> =
        headers.keys().map(|name| (name.to_string(), joined(name).join(", ").into())).collect();
    Value::Object(map)
}

fn reply(status: u16, body: Bytes) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
