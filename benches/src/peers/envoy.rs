//! Envoy as a pair of sidecars, HTTP/2 between them. Its configuration is JSON, which is YAML too.

use std::net::SocketAddr;
use std::path::Path;

use isthmus_world::Command;
use serde_json::{Value, json};

use super::{INBOUND_PORT, OUTBOUND_PORT, Sides};
use crate::certificates::{Certificates, Leaf};
use crate::stage::{APP_PORT, Stage};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// No limit may be the reason for a number.
const NO_LIMIT: u32 = 1_000_000;

pub(super) fn start(program: &Path, certificates: &Certificates, stage: &Stage) -> Result<Sides, String> {
    let inbound = stage.hosts.server.socket(INBOUND_PORT);
    let outbound = SocketAddr::from(([127, 0, 0, 1], OUTBOUND_PORT));
    let app = SocketAddr::from(([127, 0, 0, 1], APP_PORT));
    let callee = proxy(inbound, app, Some(callee_transport(certificates)), None);
    let caller = proxy(outbound, inbound, None, Some(caller_transport(certificates)));
    let callee = stage.file("callee.json", &callee.to_string())?;
    let caller = stage.file("caller.json", &caller.to_string())?;
    let command = |config: &Path, name| {
        let options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"];
        Command::new(program).args(options).arg(config).named(name)
    };
    Ok(Sides {
        callee: stage.start(&stage.hosts.server, command(&callee, "envoy-callee"), inbound)?,
        caller: stage.start(&stage.hosts.client, command(&caller, "envoy-caller"), outbound)?,
    })
}

/// One listener, one cluster. TLS on the listener makes it a callee's, TLS on the cluster a caller's.
fn proxy(listen: SocketAddr, next: SocketAddr, downstream: Option<Value>, upstream: Option<Value>) -> Value {
    let towards_next = if upstream.is_some() { "http2_protocol_options" } else { "http_protocol_options" };
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
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { towards_next: {} },
        } },
    });
    let mut chain = json!({ "filters": [http_manager()] });
    if let Some(transport) = upstream {
        cluster["transport_socket"] = transport;
    }
    if let Some(transport) = downstream {
        chain["transport_socket"] = transport;
    }
    json!({
        "node": { "id": "bench", "cluster": "bench" },
        "static_resources": {
            "listeners": [{ "name": "in", "address": address(listen), "filter_chains": [chain] }],
            "clusters": [cluster],
        },
    })
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

fn callee_transport(certificates: &Certificates) -> Value {
    let mut common = tls(&certificates.callee, &certificates.caller, &certificates.authority);
    common["alpn_protocols"] = json!(["h2"]);
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
