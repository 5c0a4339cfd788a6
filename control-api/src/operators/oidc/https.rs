//! One question to an OIDC provider, over HTTPS, bounded in time and size. Redirects are not followed: where a provider's
//! endpoints are, its own configuration says.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use isthmus_certs::{pem, provider};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const WITHIN: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 512 * 1024;
/// Where distributions keep the public CAs.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Whom to believe that it is the provider.
pub(super) fn roots(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let system = || SYSTEM.iter().map(Path::new).find(|path| path.exists());
    let path = ca_file.or_else(system).ok_or("no CAs on this machine; name a caFile")?;
    let at = path.display();
    let text = std::fs::read(path).map_err(|error| format!("{at}: {error}"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(&text));
    if added == 0 {
        return Err(format!("{at}: there is no CA in it"));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One by one: a bundle of a distribution is larger than a chain of ours may be.
fn certificates(text: &[u8]) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(text);
    let blocks = text.split_inclusive(END).filter(|block| block.contains(END));
    let der = |block: &str| pem::parse(block.as_bytes()).ok().map(|parts| parts.certificates);
    blocks.filter_map(|block| der(&block[block.find("-----BEGIN")?..])).flatten().collect()
}

/// What it answers, whatever the status. `form`: POST, else GET.
pub(super) async fn ask(url: &str, form: Option<String>, tls: &Arc<ClientConfig>) -> Result<(u16, Vec<u8>), String> {
    let asked = tokio::time::timeout(WITHIN, ask_now(url, form, tls)).await;
    let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    answer.map_err(|error| format!("{url}: {error}"))
}

async fn ask_now(url: &str, form: Option<String>, tls: &Arc<ClientConfig>) -> Result<(u16, Vec<u8>), String> {
    let uri: Uri = url.parse().map_err(|error| format!("no address: {error}"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or("is not https://")?;
    let host = authority.host().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string()).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await.map_err(|e| e.to_string())?;
    let tls = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|error| error.to_string())?;
    let http = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await;
    let (mut sender, connection) = http.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = match form {
        Some(form) => Request::post(path)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .body(Full::from(form)),
        None => Request::get(path)
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .body(Full::<Bytes>::default()),
    };
    let request = request.map_err(|error| error.to_string())?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes().to_vec()))
    };
    tokio::pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        ended = connection => match ended {
            Err(error) => Err(error.to_string()),
            // It closes after each answer, and that may be here already.
            Ok(()) => answered.await,
        },
    }
}

/// `application/x-www-form-urlencoded`.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}
