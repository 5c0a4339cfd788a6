//! Reader of EgressPolicy, and of what MeshConfig says of egress. Refuses what reads well and means something else:
//! an address written as a host, a rule without a condition, a transport that only the mesh has.

use super::field::Field;
use super::ours::{cidr, match_labels, min_tls};
use super::resource::*;
use super::service_policy::{host, list};
use std::net::IpAddr;

const TRANSPORTS: &[(&str, Transport)] = &[("HttpsOnly", Transport::HttpsOnly), ("Permissive", Transport::Permissive)];
const ACTIONS: &[(&str, bool)] = &[("Allow", true), ("Deny", false)];

/// `egress:` of MeshConfig.
pub(super) fn defaults(field: &Field) -> EgressDefaults {
    field.only(&["default", "transport", "minTlsVersion"], &[]);
    let base = EgressDefaults::default();
    EgressDefaults {
        allow: field.get("default").and_then(|f| f.choice(ACTIONS)).unwrap_or(base.allow),
        transport: transport(field, "transport").unwrap_or(base.transport),
        min_tls: min_tls(field).unwrap_or(base.min_tls),
    }
}

pub(super) fn transport(parent: &Field, name: &str) -> Option<Transport> {
    let field = parent.get(name)?;
    if field.text() == Some("MeshOnly") {
        field.fault("`MeshOnly` cannot be kept outside of the mesh; write HttpsOnly");
        return None;
    }
    field.choice(TRANSPORTS)
}

pub(super) fn policy(spec: &Field) -> EgressPolicy {
    spec.only(&["workloads", "mode", "default", "transport", "minTlsVersion", "allow", "deny"], &[]);
    let mode = spec.get("mode").and_then(|f| f.choice(&[("Enforce", false), ("Audit", true)]));
    let policy = EgressPolicy {
        workloads: spec.get("workloads").map(|f| match_labels(&f)),
        audit: mode.unwrap_or(false),
        default_allow: spec.get("default").and_then(|f| f.choice(ACTIONS)),
        transport: transport(spec, "transport"),
        min_tls: min_tls(spec),
        allow: rules(spec, "allow"),
        deny: rules(spec, "deny"),
    };
    let says = ["default", "transport", "minTlsVersion", "allow", "deny"];
    if says.iter().all(|name| spec.get(name).is_none()) {
        spec.fault(format!("says nothing; set one of {}", says.join(", ")));
    }
    policy
}

fn rules(spec: &Field, name: &str) -> Vec<EgressRule> {
    let Some(field) = spec.get(name) else { return Vec::new() };
    let items = field.items();
    if field.is_empty_list() {
        field.fault("is an empty list, which could mean nothing or everything; leave it out, or write one rule");
    }
    items.iter().map(|item| rule(item, name)).collect()
}

fn rule(field: &Field, list_name: &str) -> EgressRule {
    const CONDITIONS: [&str; 3] = ["hosts", "cidrs", "ports"];
    // A deny refuses whatever the transport.
    let carried: &[&str] = if list_name == "allow" { &["transport", "minTlsVersion"] } else { &[] };
    field.only(&[&CONDITIONS[..], carried].concat(), &[]);
    if CONDITIONS.iter().all(|name| field.get(name).is_none()) {
        field.fault(format!("has no condition and would match everything; write one of {}", CONDITIONS.join(", ")));
    }
    EgressRule {
        hosts: list(Some(field), "hosts", outside_host),
        cidrs: list(Some(field), "cidrs", cidr),
        ports: list(Some(field), "ports", |f| f.port()),
        transport: if carried.is_empty() { None } else { transport(field, "transport") },
        min_tls: if carried.is_empty() { None } else { min_tls(field) },
    }
}

fn outside_host(field: &Field) -> Option<String> {
    let text = field.text()?;
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        field.fault(format!("{ip} is an address, and no client names it; write it under `cidrs`"));
        return None;
    }
    host(field).map(|host| host.trim_end_matches('.').to_string())
}
