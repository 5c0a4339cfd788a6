//! Why something may not leave the mesh, and what a person can do about it.

use super::{Leaving, Verdict};
use crate::reason::Reason;
use crate::state::policy::explain::unique_name;

/// Why, in a sentence.
pub fn because(reason: Reason, verdict: &Verdict) -> String {
    let policy =
        verdict.policy.as_deref().map_or_else(|| "MeshConfig".to_owned(), |name| format!("EgressPolicy {name}"));
    match (reason, verdict.rule) {
        (Reason::DeniedByRule, Some(rule)) => format!("deny[{rule}] of {policy}"),
        (Reason::NameMismatch, Some(rule)) => format!("allow[{rule}] of {policy} is for another name at this address"),
        (Reason::Plaintext, _) => format!("{policy} lets nothing but TLS leave, and this is none"),
        (Reason::TlsVersion, _) => format!("{policy} asks for a newer TLS version"),
        _ => format!("no rule allows it, and {policy} denies the rest"),
    }
}

/// The EgressPolicy that would let it leave, ready to paste; none where no rule can help. It is for the whole namespace:
/// the proxy does not know the labels of its workload. Who does, narrows it to them.
pub fn yaml_that_would_allow(reason: Reason, leaving: &Leaving<'_>, namespace: &str) -> Option<String> {
    let ip = leaving.to.ip().to_canonical();
    let place = match (reason, leaving.host) {
        (Reason::NotAllowed | Reason::NameMismatch, Some(host)) => format!("hosts: [{host}]"),
        (Reason::NotAllowed, None) => format!("cidrs: [\"{ip}/{}\"]", if ip.is_ipv4() { 32 } else { 128 }),
        _ => return None,
    };
    let port = leaving.to.port();
    let name = unique_name("egress-allow", &format!("{place}:{port}"));
    Some(format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: EgressPolicy\n\
         metadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec:\n  allow:\n    - {{ {place}, ports: [{port}] }}\n"
    ))
}
