//! A plain HTTP/1.1 client, one connection per request: what an app does with the simplest of libraries. `http` and
//! `https` (any certificate), names looked up through the host's own hosts file.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::{TlsVersion, any_certificate_client};
use crate::error::Error;
use crate::host::{Host, Task};

/// The largest answer that is read.
const ANSWER_BYTES: usize = 256 << 20;

/// A request to be sent from a host.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    tls: Option<TlsVersion>,
    to: Option<SocketAddr>,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The TLS version between the app and its server, for `https`.
    pub tls: Option<String>,
}

impl Request {
    /// GET of an absolute URL.
    pub fn get(url: impl Into<String>) -> Self {
        let method = "GET".to_owned();
        Self { method, url: url.into(), headers: Vec::new(), body: Bytes::new(), tls: None, to: None }
    }

    /// Another method.
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// One more header field; `host` is added when it is not given.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Only this TLS version, for `https`.
    pub fn tls(mut self, version: TlsVersion) -> Self {
        self.tls = Some(version);
        self
    }

    /// Connects there instead of where the URL's name points (`curl --connect-to`).
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.to = Some(address);
        self
    }

    /// Sends it from `host` and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error::Deadline`], or what broke.
    pub fn send(self, host: &Host, deadline: Duration) -> Result<Response, Error> {
        host.block_on(async move { self.send_here(deadline).await })
    }

    /// Sends it from the namespace of the calling task.
    ///
    /// # Errors
    /// [`Error::Deadline`], or what broke.
    pub async fn send_here(self, deadline: Duration) -> Result<Response, Error> {
        let what = format!("the answer to {} {}", self.method, self.url);
        match tokio::time::timeout(deadline, Box::pin(self.exchange())).await {
            Ok(result) => result.map_err(|cause| Error::Unexpected(format!("no answer: {cause}"))),
            Err(_) => Err(Error::Deadline { what, after: deadline, detail: String::new() }),
        }
    }

    async fn exchange(self) -> Result<Response, String> {
        let uri = self.uri()?;
        let mut connection = Connection::open(&uri, self.to, self.tls).await?;
        let tls = connection.tls.take();
        let (head, body) = connection.send(&self.as_hyper(&uri)?).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| format!("body: {error}"))?;
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), tls })
    }

    pub(super) fn as_hyper(&self, uri: &Uri) -> Result<hyper::Request<Full<Bytes>>, String> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut builder = hyper::Request::builder().method(self.method.as_str()).uri(path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            builder = builder.header("host", uri.authority().map_or("", |authority| authority.as_str()));
        }
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        builder.body(Full::new(self.body.clone())).map_err(|error| format!("not a request: {error}"))
    }

    /// Where [`Request::to`] points it.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.to
    }

    pub(super) fn uri(&self) -> Result<Uri, String> {
        self.url.parse().map_err(|error| format!("{}: {error}", self.url))
    }
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header field as text; empty when it is missing.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }
}

/// One keep-alive connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    tls: Option<String>,
    _driver: Task<()>,
}

impl Connection {
    pub(super) async fn open(uri: &Uri, to: Option<SocketAddr>, version: Option<TlsVersion>) -> Result<Self, String> {
        let name = uri.host().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = match to {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((name.as_str(), port)).await,
        };
        let stream = stream.map_err(|error| format!("connecting to {name}:{port}: {error}"))?;
        let _ = stream.set_nodelay(true);
        if !secure {
            return Self::start(stream, None).await;
        }
        let name = ServerName::try_from(name).map_err(|error| format!("name for TLS: {error}"))?;
        let connector = TlsConnector::from(any_certificate_client(version));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS handshake: {error}"))?;
        let version = stream.get_ref().1.protocol_version().map(|version| format!("{version:?}"));
        Self::start(stream, version).await
    }

    async fn start<S>(stream: S, tls: Option<String>) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("HTTP: {error}"))?;
        // Its error is also the sender's, where it is reported.
        let driver = Task::here(async move {
            let _ = driver.await;
        });
        Ok(Self { sender, tls, _driver: driver })
    }

    pub(super) async fn send(
        &mut self,
        request: &hyper::Request<Full<Bytes>>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, String> {
        self.sender.ready().await.map_err(|error| format!("connection: {}", causes(&error)))?;
        self.sender.send_request(request.clone()).await.map_err(|error| format!("request: {}", causes(&error)))
    }
}

/// hyper's errors say what failed, their sources say why.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
