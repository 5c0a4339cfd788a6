//! nginx as a pair of sidecars with HTTP/1.1 between the two (it has no other way), or as one hop.

use std::path::Path;

use isthmus_world::{Command, Process};

use super::{Hops, Plan};
use crate::certificates::Certificates;
use crate::stage::{Stage, nginx_config};

pub(super) fn start(
    program: &Path,
    certificates: &Certificates,
    stage: &Stage,
    plan: &Plan,
) -> Result<Vec<Process>, String> {
    let command =
        |config: &Path, name| Command::new(program).arg("-p").arg(stage.dir()).arg("-c").arg(config).named(name);
    let mut proxies = Vec::new();
    if plan.setting.hops == Hops::Pair {
        let config = stage.file("callee.conf", &nginx_config(stage.dir(), "callee", &callee(certificates, plan)))?;
        proxies.push(stage.start(&stage.hosts.server, command(&config, "nginx-callee"), plan.next)?);
    }
    let config = stage.file("caller.conf", &nginx_config(stage.dir(), "caller", &caller(certificates, plan)))?;
    proxies.insert(0, stage.start(&stage.hosts.client, command(&config, "nginx-caller"), plan.outbound)?);
    Ok(proxies)
}

/// To upstreams it keeps no connection by itself, and none without HTTP/1.1 and an empty `Connection`.
fn proxy(scheme: &str, tls: &str) -> String {
    format!(
        "location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_buffering on; {tls} }}"
    )
}

fn upstream(next: std::net::SocketAddr) -> String {
    format!("upstream next {{ server {next}; keepalive 256; keepalive_requests 4000000000; keepalive_timeout 3600s; }}")
}

fn callee(certificates: &Certificates, plan: &Plan) -> String {
    let (own, authority) = (&certificates.callee, certificates.authority.display());
    let (certificate, key) = (own.certificate.display(), own.key.display());
    let (upstream, proxy) = (upstream(plan.app), proxy("http", ""));
    let listen = plan.next;
    format!(
        "{upstream}
  server {{
    listen {listen} backlog=4096 ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_client_certificate {authority};
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    {proxy}
  }}"
    )
}

fn caller(certificates: &Certificates, plan: &Plan) -> String {
    let (own, authority) = (&certificates.caller, certificates.authority.display());
    let (certificate, key, name) = (own.certificate.display(), own.key.display(), &certificates.callee.dns_name);
    let proxy = match plan.setting.hops {
        Hops::One => proxy("http", ""),
        Hops::Pair => proxy(
            "https",
            &format!(
                "proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key}; proxy_ssl_verify on; \
                 proxy_ssl_trusted_certificate {authority}; proxy_ssl_name {name}; proxy_ssl_server_name on; \
                 proxy_ssl_protocols TLSv1.3;"
            ),
        ),
    };
    let (upstream, listen) = (upstream(plan.next), plan.outbound);
    format!("{upstream}\n  server {{ listen {listen} backlog=4096; {proxy} }}")
}
