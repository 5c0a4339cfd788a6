//! Envoy as a pair of sidecars, or as one hop. Its configuration is JSON, which is YAML too.

use std::net::SocketAddr;
use std::path::Path;

use isthmus_world::{Command, Process};
use serde_json::{Value, json};

use super::{Between, Hops, Plan};
use crate::certificates::{Certificates, Leaf};
use crate::stage::{Stage, Traffic};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// No limit may be the reason for a number.
const NO_LIMIT: u32 = 1_000_000;

/// One listener, one cluster.
struct Proxy {
    listen: SocketAddr,
    next: SocketAddr,
    /// TLS on the listener makes it a callee's.
    downstream: Option<Value>,
    /// TLS on the cluster makes it a caller's.
    upstream: Option<Value>,
    towards_next: Between,
}

pub(super) fn start(
    program: &Path,
    certificates: &Certificates,
    stage: &Stage,
    plan: &Plan,
) -> Result<Vec<Process>, String> {
    let command = |config: &Path, name| {
        let options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"];
        Command::new(program).args(options).arg(config).named(name)
    };
    let towards_app = match plan.setting.traffic {
        Traffic::Http => Between::Http1,
        Traffic::Grpc => Between::Http2,
        Traffic::Bytes => Between::Bytes,
    };
    let mut proxies = Vec::new();
    if plan.setting.hops == Hops::Pair {
        let downstream = Some(callee_transport(certificates, plan.between));
        let callee = Proxy { listen: plan.next, next: plan.app, downstream, upstream: None, towards_next: towards_app };
        let config = stage.file("callee.json", &callee.config().to_string())?;
        proxies.push(stage.start(&stage.hosts.server, command(&config, "envoy-callee"), plan.next)?);
    }
    let (upstream, towards_next) = match plan.setting.hops {
        Hops::Pair => (Some(caller_transport(certificates)), plan.between),
        Hops::One => (None, towards_app),
    };
    let caller = Proxy { listen: plan.outbound, next: plan.next, downstream: None, upstream, towards_next };
    let config = stage.file("caller.json", &caller.config().to_string())?;
    proxies.insert(0, stage.start(&stage.hosts.client, command(&config, "envoy-caller"), plan.outbound)?);
    Ok(proxies)
}

impl Proxy {
    fn config(self) -> Value {
        let mut cluster = cluster(self.next, self.towards_next);
        let filter = if self.towards_next == Between::Bytes { tcp_proxy() } else { http_manager() };
        let mut chain = json!({ "filters": [filter] });
        if let Some(transport) = self.upstream {
            cluster["transport_socket"] = transport;
        }
        if let Some(transport) = self.downstream {
            chain["transport_socket"] = transport;
        }
        json!({
            "node": { "id": "bench", "cluster": "bench" },
            "static_resources": {
                "listeners": [{
                    "name": "in", "address": address(self.listen), "tcp_backlog_size": 4096, "filter_chains": [chain],
                }],
                "clusters": [cluster],
            },
        })
    }
}

fn cluster(next: SocketAddr, towards_next: Between) -> Value {
    let mut cluster = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(next) } }] }],
        },
        "circuit_breakers": { "thresholds": [{
            "max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT,
        }] },
    });
    let options = match towards_next {
        Between::Http1 => "http_protocol_options",
        Between::Http2 => "http2_protocol_options",
        Between::Bytes => return cluster,
    };
    cluster["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": { options: {} },
    } });
    cluster
}

fn tcp_proxy() -> Value {
    json!({ "name": "tcp", "typed_config": {
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "tcp",
        "cluster": "next",
    } })
}

fn http_manager() -> Value {
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "next", "timeout": "0s" } });
    json!({ "name": "http", "typed_config": {
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
        }],
    } })
}

fn callee_transport(certificates: &Certificates, between: Between) -> Value {
    let mut common = tls(&certificates.callee, &certificates.caller, &certificates.authority);
    match between {
        Between::Http1 => common["alpn_protocols"] = json!(["http/1.1"]),
        Between::Http2 => common["alpn_protocols"] = json!(["h2"]),
        Between::Bytes => {}
    }
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common,
    } })
}

fn caller_transport(certificates: &Certificates) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": certificates.callee.dns_name,
        "common_tls_context": tls(&certificates.caller, &certificates.callee, &certificates.authority),
    } })
}

fn tls(own: &Leaf, other: &Leaf, authority: &Path) -> Value {
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": own.certificate },
            "private_key": { "filename": own.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": authority },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": other.spiffe_id } }],
        },
    })
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
