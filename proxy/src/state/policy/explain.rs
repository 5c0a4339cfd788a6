//! Turns a refusal into what a person can do about it.

use std::fmt::Write;

use isthmus_proto::model::{PathPattern, ServiceName};

use super::matching::Holds;
use super::path::{PathReadings, decoded, normalise};
use super::{Decision, Facts};
use crate::reason::Reason;

/// RFC 1123.
const LONGEST_LABEL: usize = 63;

/// The ServicePolicy that would let exactly this traffic through, for [`Reason::NotAllowed`]. It stands beside the
/// policies that are there and replaces none. `None` where no allow rule can help: a deny wins over every allow, a caller
/// without identity has nothing that could be named, and some methods and paths no rule can say.
pub fn yaml_that_would_allow(decision: &Decision, facts: &Facts, service: &ServiceName) -> Option<String> {
    if decision.reason != Some(Reason::NotAllowed) {
        return None;
    }
    let peer = facts.peer?;
    let mut to = format!("ports: [{}]", facts.port);
    if let Some(http) = &facts.http {
        let path = nameable_path(http.path.split_once('?').map_or(http.path, |(path, _)| path))?;
        if !http.method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return None;
        }
        write!(to, ", methods: [{}], paths: [{}]", quoted(http.method), quoted(&path)).ok()?;
    }
    let start = format!("{}-allow-{}", service.name(), peer.service_account());
    let name = unique_name(&start, &format!("{peer} {to}"));
    Some(format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\n\
         kind: ServicePolicy\n\
         metadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec:\n  \
           services: [{service}]\n  \
           allow:\n    \
             - from: {{ identities: [{peer}] }}\n      \
               to: {{ {to} }}\n",
        namespace = service.namespace(),
        service = service.name(),
        peer = quoted(peer.as_str()),
    ))
}

/// The narrowest pattern that holds for the path. A segment that cannot be written down (with parameters, or with what
/// patterns are made of) is `{any}`.
fn nameable_path(path: &str) -> Option<String> {
    let odd = |c: char| matches!(c, ';' | '{' | '}' | '*') || c.is_control();
    let normal = decoded(&normalise(path)?)?;
    let segments = normal.split('/').map(|segment| if segment.contains(odd) { "{any}" } else { segment });
    let text = segments.collect::<Vec<_>>().join("/");
    let pattern: [PathPattern; 1] = [text.parse().ok()?];
    (PathReadings::of(path).hold(&pattern) == Holds::Yes).then_some(text)
}

/// A DNS label that is another for another caller or request: what is applied for one must not replace what was applied
/// for the other.
pub fn unique_name(start: &str, of: &str) -> String {
    // FNV-1a: the same in every process. Nothing rests on it but a name.
    let hash = of.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let start = start.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let start: String = start.chars().take(LONGEST_LABEL - 9).collect();
    format!("{}-{hash:08x}", start.trim_end_matches('-'))
}

/// One sentence for the log and the decision's record: what refused, and whose rule it was.
pub fn sentence(decision: &Decision) -> String {
    let Some(reason) = decision.reason else {
        return "allowed".to_owned();
    };
    match (&decision.policy, decision.rule) {
        (Some(policy), Some(rule)) if reason == Reason::DeniedByRule => {
            format!("{reason}: ServicePolicy {policy} refuses it in spec.deny[{rule}]")
        }
        (Some(policy), Some(rule)) => {
            format!("{reason}: rule {rule} of ServicePolicy {policy} needs a newer proxy: upgrade this one")
        }
        (Some(policy), None) => {
            format!("{reason}: no rule allows it, and ServicePolicy {policy} denies what none allows")
        }
        (None, _) if reason == Reason::NotAllowed => {
            format!("{reason}: no rule allows it, and the mesh's default is Deny")
        }
        (None, _) => reason.to_string(),
    }
}

/// A JSON string is a YAML scalar, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
