//! One question to a cluster's API server, over TLS with that cluster's own CA: whose token is this? CA and our own token
//! are read anew each time, because both are rotated under us.

use super::kubernetes::Known;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use isthmus_certs::{pem, provider};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// Connecting, TLS and the answer together. The pod waits meanwhile, with 10 s of patience.
const WITHIN: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 * 1024;

/// The answer's body. An error is about us and the API server, not about the token.
pub(super) async fn ask(cluster: &Known, token: &str) -> Result<Vec<u8>, String> {
    let asked = tokio::time::timeout(WITHIN, ask_now(cluster, token)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())))
}

async fn ask_now(cluster: &Known, token: &str) -> Result<Vec<u8>, String> {
    let host = cluster.api_server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = cluster.api_server.port_u16().unwrap_or(443);
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| format!("{host}:{port}: {error}"))?;
    let name = ServerName::try_from(host.to_string()).map_err(|error| format!("{host}: {error}"))?;
    let tls = TlsConnector::from(client_config(cluster).await?);
    let tls = tls.connect(name, tcp).await.map_err(|error| format!("{host}:{port}: {error}"))?;
    let http = hyper::client::conn::http1::handshake(TokioIo::new(tls));
    let (mut sender, connection) = http.await.map_err(|error| error.to_string())?;
    let answered = async {
        let answer = sender.send_request(request(cluster, token).await?).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        match status {
            StatusCode::OK | StatusCode::CREATED => Ok(body.to_vec()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(format!(
                "it answers {status}: the account of tokenFile needs the ClusterRole system:auth-delegator"
            )),
            other => Err(format!("it answers {other}")),
        }
    };
    tokio::select! {
        answer = answered => answer,
        ended = connection => Err(ended.err().map_or("it hung up".to_string(), |error| error.to_string())),
    }
}

async fn client_config(cluster: &Known) -> Result<Arc<ClientConfig>, String> {
    let path = cluster.ca_file.display();
    let text = tokio::fs::read(&cluster.ca_file).await.map_err(|error| format!("{path}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for root in pem::parse(&text).map_err(|error| format!("{path}: {error}"))?.certificates {
        roots.add(root).map_err(|error| format!("{path}: {error}"))?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn request(cluster: &Known, token: &str) -> Result<Request<Full<Bytes>>, String> {
    let path = cluster.token_file.display();
    let own = tokio::fs::read_to_string(&cluster.token_file).await.map_err(|error| format!("{path}: {error}"))?;
    let own = Zeroizing::new(own);
    let mut bearer =
        HeaderValue::try_from(format!("Bearer {}", own.trim())).map_err(|_| format!("{path}: no token"))?;
    bearer.set_sensitive(true);
    let body = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": token, "audiences": [cluster.audience] },
    });
    let host = cluster.api_server.authority().map(|authority| authority.as_str()).unwrap_or_default();
    Request::post(PATH)
        .header(HOST, host)
        .header(AUTHORIZATION, bearer)
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))
        .map_err(|error| error.to_string())
}
