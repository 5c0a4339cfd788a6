//! The kinds an operator may name on the command line, in whichever spelling comes to mind.

/// Canonical name, and whether it lives in a namespace. `Site`, `Link` and `MeshConfig` describe the whole mesh.
const KINDS: &[(&str, bool, &[&str])] = &[
    ("MeshConfig", false, &["mesh", "mc"]),
    ("Site", false, &[]),
    ("Link", false, &[]),
    ("TrustDomain", false, &["td"]),
    ("OperatorRole", false, &["role"]),
    ("Workload", true, &["wl", "vm"]),
    ("Service", true, &["svc"]),
    ("Endpoints", true, &["ep"]),
    ("EndpointSlice", true, &[]),
    ("ServicePolicy", true, &["policy", "policies", "sp"]),
    ("TrafficPolicy", true, &["tp"]),
    ("EgressPolicy", true, &["egress"]),
    ("Enforcement", true, &[]),
    ("Bypass", true, &["bypasses"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) namespaced: bool,
}

impl Kind {
    /// Whose documents may leave out the namespace, which is then `default`.
    pub(crate) fn of_kubernetes(self) -> bool {
        matches!(self.name, "Service" | "Endpoints" | "EndpointSlice")
    }
}

/// Reads `servicepolicy`, `ServicePolicies`, `policy` and the like.
pub(crate) fn parse(text: &str) -> Result<Kind, String> {
    let given = text.to_ascii_lowercase();
    for &(name, namespaced, short) in KINDS {
        let full = name.to_ascii_lowercase();
        let plural = match full.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{full}s"),
        };
        if given == full || given == plural || short.contains(&given.as_str()) {
            return Ok(Kind { name, namespaced });
        }
    }
    let names: Vec<&str> = KINDS.iter().map(|&(name, ..)| name).collect();
    Err(format!("there is no kind `{text}`; there are {}", names.join(", ")))
}

#[cfg(test)]
#[path = "kinds_test.rs"]
mod kinds_test;
