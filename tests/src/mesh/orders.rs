//! The app on `orders`: nginx where it is installed, the world's own servers where not. Both count what they accept, so
//! that "refused" can be told from "answered otherwise".

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::apps::{Nginx, SelfSigned, Server, http_server, https_server, tls11};
use crate::find;
use crate::host::Host;

/// The app's ports, as the example's Services name them.
const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;
/// nginx's counters, on loopback only.
const STATUS: u16 = 8081;

/// What serves on `orders`.
pub(super) enum Orders {
    Nginx(Nginx),
    BuiltIn(BuiltIn),
}

/// Nobody can speak TLS 1.1 with a modern library, so the built-in TLS server is changed for a scripted one when asked.
pub(super) struct BuiltIn {
    host: Host,
    certificate: SelfSigned,
    http: Server,
    https: Mutex<Https>,
}

struct Https {
    server: Option<Server>,
    old: bool,
    /// What reached the servers before this one.
    before: u64,
}

impl Orders {
    pub(super) fn start(host: &Host, built_in_only: bool) -> Result<Orders, String> {
        let certificate = SelfSigned::new(&["orders-tls.shop.svc.cluster.local"]).map_err(|e| e.to_string())?;
        if !built_in_only && find::program("nginx").is_some() {
            let nginx = Nginx::start(host, HTTP, HTTPS, STATUS, &certificate);
            return nginx.map(Orders::Nginx).map_err(|e| e.to_string());
        }
        let http = http_server(host, any(HTTP)).map_err(|e| e.to_string())?;
        let https = https_server(host, any(HTTPS), &certificate).map_err(|e| e.to_string())?;
        let https = Mutex::new(Https { server: Some(https), old: false, before: 0 });
        Ok(Orders::BuiltIn(BuiltIn { host: host.clone(), certificate, http, https }))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Orders::Nginx(_) => "nginx",
            Orders::BuiltIn(_) => "built-in server",
        }
    }

    /// Connections accepted and requests served so far: whatever reaches the app moves it, also on a connection that was
    /// there before.
    pub(super) fn reached(&self) -> Result<u64, String> {
        match self {
            Orders::Nginx(nginx) => nginx.counters().map(|both| both.iter().sum()).map_err(|e| e.to_string()),
            Orders::BuiltIn(built_in) => Ok(built_in.reached()),
        }
    }

    /// Makes sure that TLS 1.1 (`old`) or 1.2 and newer can be spoken. nginx speaks all of them.
    pub(super) fn speak(&self, old: bool) -> Result<(), String> {
        match self {
            Orders::Nginx(_) => Ok(()),
            Orders::BuiltIn(built_in) => built_in.speak(old),
        }
    }
}

impl BuiltIn {
    fn reached(&self) -> u64 {
        let https = self.https.lock().unwrap_or_else(PoisonError::into_inner);
        seen(&self.http) + https.before + https.server.as_ref().map_or(0, seen)
    }

    fn speak(&self, old: bool) -> Result<(), String> {
        let mut https = self.https.lock().unwrap_or_else(PoisonError::into_inner);
        if https.old == old {
            return Ok(());
        }
        https.before += https.server.take().as_ref().map_or(0, seen);
        let server = match old {
            true => tls11::server(&self.host, any(HTTPS)),
            false => https_server(&self.host, any(HTTPS), &self.certificate),
        };
        https.server = Some(server.map_err(|e| e.to_string())?);
        https.old = old;
        Ok(())
    }
}

fn seen(server: &Server) -> u64 {
    server.accepted() + server.requests()
}

/// Both families, all addresses.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}
