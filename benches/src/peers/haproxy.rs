//! HAProxy as a pair of sidecars.

use std::path::Path;

use isthmus_world::Command;

use super::{INBOUND_PORT, OUTBOUND_PORT, Sides};
use crate::certificates::Certificates;
use crate::stage::{APP_PORT, Stage};

/// What the two speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Http1,
    Http2,
}

pub(super) fn start(
    program: &Path,
    certificates: &Certificates,
    stage: &Stage,
    between: Between,
) -> Result<Sides, String> {
    let inbound = stage.hosts.server.socket(INBOUND_PORT);
    let outbound = ([127, 0, 0, 1], OUTBOUND_PORT).into();
    let callee = stage.file("callee.cfg", &callee(certificates, &inbound.to_string(), between))?;
    let caller = stage.file("caller.cfg", &caller(certificates, &inbound.to_string(), between))?;
    let command = |config: &Path, name| Command::new(program).args(["-db", "-q", "-f"]).arg(config).named(name);
    Ok(Sides {
        callee: stage.start(&stage.hosts.server, command(&callee, "haproxy-callee"), inbound)?,
        caller: stage.start(&stage.hosts.client, command(&caller, "haproxy-caller"), outbound)?,
    })
}

/// One thread; connections to the other side are shared by all of this side's.
const COMMON: &str = "\
global
    nbthread 1
    maxconn 8000
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
";

fn callee(certificates: &Certificates, listen: &str, between: Between) -> String {
    let (own, authority) = (certificates.callee.both.display(), certificates.authority.display());
    let alpn = between.alpn();
    format!(
        "{COMMON}
listen inbound
    bind {listen} ssl crt {own} ca-file {authority} verify required ssl-min-ver TLSv1.3 alpn {alpn}
    server app 127.0.0.1:{APP_PORT}
"
    )
}

fn caller(certificates: &Certificates, callee: &str, between: Between) -> String {
    let (own, authority) = (certificates.caller.both.display(), certificates.authority.display());
    let name = &certificates.callee.dns_name;
    let protocol = match between {
        Between::Http1 => "alpn http/1.1",
        Between::Http2 => "alpn h2 proto h2",
    };
    format!(
        "{COMMON}
listen outbound
    bind 127.0.0.1:{OUTBOUND_PORT}
    server callee {callee} ssl crt {own} ca-file {authority} verify required verifyhost {name} sni str({name}) \
         ssl-min-ver TLSv1.3 {protocol}
"
    )
}

impl Between {
    fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}
