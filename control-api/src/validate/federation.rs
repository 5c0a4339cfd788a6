//! What other trust domains and DNS names may be: nobody speaks for us, nobody is named twice, and a leaf carries no name
//! that the mesh's configuration does not let its Workload have.

use super::*;

/// As SPIFFE ids are short, a leaf has to be: it is sent with each handshake.
const MOST_NAMES: usize = 16;

pub(super) fn check_domain(
    found: &mut Findings,
    resource: &Resource,
    other: &crate::validate::resource::TrustDomain,
    world: &World,
) {
    let Some(name) = &other.name else { return };
    if name == world.trust_domain {
        let reason = format!("`{name}` is our own; its roots come from `isthmus ca`, and from nobody else");
        found.fault(resource, "spec.trustDomain", reason);
    }
    let twin = world.set.values().find(|twin| {
        twin.key < resource.key && matches!(&twin.spec, Spec::TrustDomain(theirs) if theirs.name == other.name)
    });
    if let Some(twin) = twin {
        found.fault(resource, "spec.trustDomain", format!("`{name}` is that of TrustDomain {} as well", twin.key.name));
    }
}

pub(super) fn check_workload(
    found: &mut Findings,
    resource: &Resource,
    workload: &Workload,
    mesh: &MeshConfig,
    world: &World,
) {
    if let Some(domain) = workload.trust_domain.as_ref().filter(|domain| *domain != world.trust_domain.as_str()) {
        let named =
            |spec: &Spec| matches!(spec, Spec::TrustDomain(t) if t.name.as_ref().is_some_and(|n| n.as_str() == domain));
        if !world.set.values().any(|other| named(&other.spec)) {
            let reason = format!("there is no TrustDomain with spec.trustDomain `{domain}`; apply its roots first");
            found.fault(resource, "spec.trustDomain", reason);
        }
        if !workload.dns_names.is_empty() {
            let reason = format!("its certificate is made in `{domain}`, where its names are decided");
            found.fault(resource, "spec.dnsNames", reason);
        }
    }
    if workload.dns_names.len() > MOST_NAMES {
        found.fault(resource, "spec.dnsNames", format!("has more than {MOST_NAMES} names"));
    }
    for (i, name) in workload.dns_names.iter().enumerate() {
        let below = |suffix: &String| name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'));
        if name.starts_with('*') || !mesh.leaf_suffixes.iter().any(below) {
            let reason = format!("`{name}` is below none of MeshConfig's spec.certificates.dnsSuffixes");
            found.fault(resource, format!("spec.dnsNames[{i}]"), reason);
        }
    }
}
