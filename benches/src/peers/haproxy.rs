//! HAProxy as a pair of sidecars, or as one hop.

use std::path::Path;

use isthmus_world::{Command, Process};

use super::{Between, Hops, Plan};
use crate::certificates::{Certificates, Leaf};
use crate::stage::{Stage, Traffic};

pub(super) fn start(
    program: &Path,
    certificates: &Certificates,
    stage: &Stage,
    plan: &Plan,
) -> Result<Vec<Process>, String> {
    let command = |config: &Path, name| Command::new(program).args(["-db", "-q", "-f"]).arg(config).named(name);
    let mut proxies = Vec::new();
    if plan.setting.hops == Hops::Pair {
        let config = stage.file("callee.cfg", &callee(certificates, plan))?;
        proxies.push(stage.start(&stage.hosts.server, command(&config, "haproxy-callee"), plan.next)?);
    }
    let config = stage.file("caller.cfg", &caller(certificates, plan))?;
    proxies.insert(0, stage.start(&stage.hosts.client, command(&config, "haproxy-caller"), plan.outbound)?);
    Ok(proxies)
}

/// One thread; connections to the other side are shared by all of this side's. The descriptor limit is not its to judge:
/// it assumes two for each connection, also where many share one.
fn common(plan: &Plan) -> String {
    let mode = match plan.between {
        Between::Bytes => "mode tcp",
        Between::Http1 | Between::Http2 => "mode http\n    http-reuse always\n    timeout http-keep-alive 1h",
    };
    format!(
        "\
global
    nbthread 1
    maxconn 12000
    no strict-limits
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    {mode}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"
    )
}

fn callee(certificates: &Certificates, plan: &Plan) -> String {
    let tls = tls(certificates, &certificates.callee);
    let alpn = match plan.between {
        Between::Http1 => "alpn http/1.1",
        Between::Http2 => "alpn h2",
        Between::Bytes => "",
    };
    let (common, listen, app, to_app) = (common(plan), plan.next, plan.app, app_protocol(plan));
    format!(
        "{common}
listen inbound
    bind {listen} backlog 4096 {tls} ssl-min-ver TLSv1.3 {alpn}
    server app {app} {to_app}
"
    )
}

fn caller(certificates: &Certificates, plan: &Plan) -> String {
    let name = &certificates.callee.dns_name;
    let tls = tls(certificates, &certificates.caller);
    let server = match (plan.setting.hops, plan.between) {
        (Hops::One, _) => app_protocol(plan).to_owned(),
        (Hops::Pair, between) => {
            let protocol = match between {
                Between::Http1 => "alpn http/1.1",
                Between::Http2 => "alpn h2 proto h2",
                Between::Bytes => "",
            };
            format!("{tls} verifyhost {name} sni str({name}) ssl-min-ver TLSv1.3 {protocol}")
        }
    };
    let (common, listen, next, from_app) = (common(plan), plan.outbound, plan.next, app_protocol(plan));
    format!(
        "{common}
listen outbound
    bind {listen} backlog 4096 {from_app}
    server next {next} {server}
"
    )
}

fn tls(certificates: &Certificates, own: &Leaf) -> String {
    let authority = certificates.authority.display();
    format!("ssl crt {} ca-file {authority} verify required", own.both.display())
}

/// What app and caller speak, where it is not found out by looking.
fn app_protocol(plan: &Plan) -> &'static str {
    match plan.setting.traffic {
        Traffic::Grpc => "proto h2",
        Traffic::Http | Traffic::Bytes => "",
    }
}
