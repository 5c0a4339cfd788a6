//! An app's own TLS client: openssl at any version, or what the world has itself.

use std::net::SocketAddr;
use std::time::Duration;

use super::Mesh;
use crate::apps::tls11::{self, Heard};
use crate::apps::{Request, TlsVersion, openssl_client};
use crate::find;

const DEADLINE: Duration = Duration::from_secs(10);
const NAME: &str = "orders-tls.shop.svc.cluster.local";

/// What came of a handshake.
#[derive(Debug)]
pub struct Handshake {
    pub completed: bool,
    /// What the client said about it.
    pub said: String,
}

impl Mesh {
    /// A handshake of an app on `from` at one version, "1.1" or "1.3".
    pub fn tls(&self, from: &str, to: &str, version: &str) -> Result<Handshake, String> {
        let to: SocketAddr = to.parse().map_err(|e| format!("{to}: {e}"))?;
        self.orders.speak(version == "1.1")?;
        match (self.has_openssl(), version) {
            (true, _) => self.openssl(from, to, version),
            (false, "1.1") => {
                let (heard, _) = tls11::hello(self.world().host(from), to, NAME, DEADLINE);
                Ok(Handshake { completed: heard == Heard::ServerHello, said: format!("{heard:?}") })
            }
            (false, _) => {
                let request = Request::get(format!("https://{NAME}/")).to(to).tls(TlsVersion::Tls13);
                Ok(match request.send(self.world().host(from), DEADLINE) {
                    Ok(answer) => Handshake { completed: answer.status == 200, said: answer.text() },
                    Err(why) => Handshake { completed: false, said: why.to_string() },
                })
            }
        }
    }

    fn openssl(&self, from: &str, to: SocketAddr, version: &str) -> Result<Handshake, String> {
        let flag = format!("-tls{}", version.replace('.', "_"));
        let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
        let attempt = openssl_client(self.world().host(from), to, NAME, &flag, &request, DEADLINE);
        let attempt = attempt.map_err(|e| e.to_string())?;
        let completed = attempt.version.as_deref() == Some(&format!("TLSv{version}")) && attempt.answer.contains("200");
        Ok(Handshake { completed, said: attempt.log })
    }

    fn has_openssl(&self) -> bool {
        !self.options.built_in_only && find::program("openssl").is_some()
    }

    /// The program that plays the TLS clients.
    pub fn tls_client(&self) -> &'static str {
        if self.has_openssl() { "openssl s_client" } else { "built-in TLS, and scripted hellos of TLS 1.1" }
    }
}
