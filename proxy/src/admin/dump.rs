//! What the admin socket tells, as JSON. Keys, tokens and header values of rules are not in it: each field is named
//! here, and nothing is printed because it happens to be there.

use isthmus_certs::{IdentityStore, RootFingerprint};
use serde_json::{Value, json};

use crate::config::{Config, InboundCapture, Mode, OnStop, UdpCapture};
use crate::flows::Decisions;
use crate::redirect::Exemption;
use crate::state::{InboundPort, Mesh, Service};

/// Services beyond this are left out of the dump, and it says how many.
const MOST_SERVICES: usize = 1_000;

pub(super) fn config(config: &Config, mesh: &Mesh) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": own_config(config),
        "snapshot": snapshot(mesh),
    })
}

fn own_config(config: &Config) -> Value {
    let capture = &config.capture;
    let exempt = match capture.exempt {
        Exemption::Uid(uid) => json!({ "uid": uid }),
        Exemption::Mark(mark) => json!({ "mark": mark }),
    };
    let listen = &config.listen;
    json!({
        "controlPlane": config.control_plane,
        "joinTokenFile": config.join_token_file,
        "stateDir": config.state_dir,
        "workers": config.workers,
        "capture": {
            "mode": mode(capture.mode),
            "exempt": exempt,
            "inbound": match capture.inbound { InboundCapture::All => "all", InboundCapture::Services => "services" },
            "excludeInboundPorts": capture.exclude_inbound_ports,
            "excludeOutboundPorts": capture.exclude_outbound_ports,
            "excludeOutboundCidrs": texts(&capture.exclude_outbound_cidrs),
            "includeOutboundPorts": capture.include_outbound_ports,
            "includeOutboundCidrs": texts(&capture.include_outbound_cidrs),
            "includeUids": capture.include_uids,
            "excludeUids": capture.exclude_uids,
            "udp": match capture.udp { UdpCapture::Pass => "pass", UdpCapture::Drop => "drop" },
            "resolvers": texts(&capture.resolvers),
            "onStop": match capture.on_stop { OnStop::Remove => "remove", OnStop::Keep => "keep" },
        },
        "listen": {
            "outbound": listen.outbound,
            "inbound": listen.inbound,
            "mesh": listen.mesh,
            "metrics": listen.metrics,
            "readiness": listen.readiness,
            "maxConnections": listen.max_connections,
            "drainSeconds": listen.drain.as_secs_f64(),
        },
        "admin": { "socket": config.admin.socket },
    })
}

/// As the configuration writes it.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Nftables => "nftables",
        Mode::Iptables => "iptables",
        Mode::None => "none",
    }
}

fn snapshot(mesh: &Mesh) -> Value {
    let inbound = mesh.inbound();
    let mut services: Vec<_> = mesh.services().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let left_out = services.len().saturating_sub(MOST_SERVICES);
    services.truncate(MOST_SERVICES);
    let mut ports: Vec<_> = inbound.ports().collect();
    ports.sort_by_key(|port| port.port);
    let telemetry = mesh.telemetry();
    json!({
        "ready": mesh.is_ready(),
        "version": mesh.version,
        "enforcement": format!("{:?}", mesh.enforcement()),
        "trustDomain": mesh.trust_domain().map(ToString::to_string),
        "otherTrustDomains": mesh.trust_domains().map(|others| others.keys().map(ToString::to_string).collect::<Vec<_>>()),
        "cryptoProfile": mesh.crypto_profile().map(isthmus_certs::CryptoProfile::in_words),
        "site": mesh.site().map(ToString::to_string),
        "dnsSuffixes": mesh.dns_suffixes(),
        "sampling": telemetry.sampling_ratio,
        "workload": inbound.workload.as_ref().map(ToString::to_string),
        "addresses": texts(inbound.addresses()),
        "inbound": ports.into_iter().map(|port| inbound_port(port)).collect::<Vec<_>>(),
        "services": services.into_iter().map(|of| service(of)).collect::<Vec<_>>(),
        "servicesLeftOut": left_out,
    })
}

fn inbound_port(port: &InboundPort) -> Value {
    json!({
        "port": port.port,
        "protocol": format!("{:?}", port.protocol),
        "services": texts(&port.services),
        "transport": format!("{:?}", port.policy.transport),
        "minTlsVersion": format!("{:?}", port.policy.min_tls_version),
        "enforcement": port.standing.enforcement.map(|enforcement| format!("{enforcement:?}")),
        "bypassUntilUnixMs": port.standing.bypass_until_ms,
    })
}

fn service(service: &Service) -> Value {
    let endpoint = |endpoint: &crate::state::Endpoint| {
        json!({
            "ip": endpoint.ip,
            "site": endpoint.site.as_ref().map(ToString::to_string),
            "workload": endpoint.workload.as_ref().map(ToString::to_string),
            "targetPorts": endpoint.target_ports,
            "identities": endpoint.mesh.as_ref().map(|mesh| texts(&mesh.identities)),
        })
    };
    let port = |port: &crate::state::ServicePort| {
        json!({
            "port": port.port,
            "protocol": format!("{:?}", port.protocol),
            "transport": port.transport.map(|transport| format!("{transport:?}")),
            "minTlsVersion": port.min_tls_version.map(|version| format!("{version:?}")),
        })
    };
    json!({
        "name": service.name.to_string(),
        "vips": service.vips,
        "hostnames": service.hostnames,
        "ports": service.ports().map(|one| port(one)).collect::<Vec<_>>(),
        "endpoints": service.endpoints.iter().map(|one| endpoint(one)).collect::<Vec<_>>(),
        "unusableEndpoints": service.unusable_endpoints,
    })
}

pub(super) fn certs(identities: &IdentityStore) -> Value {
    let roots = texts(identities.bundle().fingerprints());
    let Some(identity) = identities.current() else {
        return json!({ "identity": null, "roots": roots, "because": "not enrolled yet" });
    };
    let (now, end) = (identities.now().as_secs(), identity.not_after.as_secs());
    json!({
        "identity": identity.id.as_str(),
        "serial": identity.serial.to_string(),
        "notBeforeUnixSeconds": identity.not_before.as_secs(),
        "notAfterUnixSeconds": end,
        "secondsLeft": end.saturating_sub(now),
        "generation": identity.generation,
        // SHA-256 of each certificate as it is sent, leaf first.
        "chain": identity.chain.iter().map(|der| RootFingerprint::of(der).to_string()).collect::<Vec<_>>(),
        "roots": roots,
    })
}

pub(super) fn decisions(decisions: &Decisions) -> Value {
    let mut recent = decisions.recent();
    recent.reverse();
    json!({ "newestFirst": serde_json::to_value(recent).unwrap_or_default(), "dropped": decisions.dropped() })
}

fn texts<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().map(|one| one.to_string()).collect()
}
