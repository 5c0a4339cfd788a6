//! What proxies are told of their own ports, for whoever wants to run the proxy's engine on it: `isthmus explain`,
//! `policy replay`, `policy enforce`. The same for what is stored and for files that are only proposed.

use crate::index::Index;
use crate::validate::ResourceRef;
use crate::validate::cross::Set;
use crate::validate::resource::{EgressPolicy, Resource, ServicePolicy, Spec};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::discovery::v1 as discovery;
use std::sync::Arc;

/// Who is to be asked about a policy: `metadata.annotations`.
pub const OWNER: &str = "mesh.isthmus.dev/owner";
/// The label that counts where there is no such annotation.
const OWNER_LABEL: &str = "owner";

/// Of the callee. Empty: all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    pub namespace: &'a str,
    pub service: &'a str,
}

impl Selection<'_> {
    fn holds(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || self.namespace == namespace
    }
}

/// The views of a selection, in the namespaces that are seen. `origin` says where a policy came from.
pub fn of(
    set: &Set,
    index: &Index,
    (selection, sees): (Selection<'_>, &dyn Fn(&str) -> bool),
    now_ms: i64,
    origin: impl Fn(&Resource) -> String,
) -> wire::CompileViewsResponse {
    let service = format!("{}/{}", selection.namespace, selection.service);
    let mut answer = wire::CompileViewsResponse { mesh: index.any_mesh(), ..Default::default() };
    for resource in set.values().filter(|r| selection.holds(&r.key.namespace) && sees(&r.key.namespace)) {
        let name = resource.key.qualified();
        match &resource.spec {
            Spec::Workload(workload) => {
                let wanted = selection.service.is_empty() || index.declares(&name, &service);
                if let (Some(inbound), Some(identity), true) =
                    (index.inbound_of(&name), index.identity_of(&name), wanted)
                {
                    answer.workloads.push(wire::WorkloadView {
                        spiffe_id: identity.to_string(),
                        site: workload.site.clone(),
                        inbound: Some(inbound.clone()),
                        egress: index.egress_of(&name).cloned(),
                        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
                        labels: resource.labels.clone().into_iter().collect(),
                        workload: name,
                    });
                }
            }
            Spec::Service(_) if selection.service.is_empty() || name == service => {
                answer.services.extend(index.service(&resource.key).cloned());
            }
            Spec::ServicePolicy(_) | Spec::EgressPolicy(_) => answer.policies.push(wire::PolicyOwner {
                policy: name,
                owner: owner(resource),
                origin: origin(resource),
                egress: matches!(resource.spec, Spec::EgressPolicy(_)),
            }),
            _ => {}
        }
    }
    let shown = |bypass: &wire::ActiveBypass| selection.holds(&bypass.namespace) && sees(&bypass.namespace);
    answer.bypasses = bypasses(set, now_ms).into_iter().filter(shown).collect();
    answer
}

/// Takes every policy and every rule out of Audit: what they would refuse they refuse, and whom they name they let through.
/// Returns those that were in it.
pub(crate) fn out_of_audit(set: &mut Set) -> Vec<ResourceRef> {
    let policies: Vec<Arc<Resource>> =
        set.of_kind("ServicePolicy", None).chain(set.of_kind("EgressPolicy", None)).cloned().collect();
    let mut changed = Vec::new();
    for resource in policies {
        let spec = match &resource.spec {
            Spec::ServicePolicy(policy) => {
                let mut enforced = ServicePolicy { audit: false, ..policy.clone() };
                enforced.allow.iter_mut().chain(&mut enforced.deny).for_each(|rule| rule.audit = false);
                Spec::ServicePolicy(enforced)
            }
            Spec::EgressPolicy(policy) => Spec::EgressPolicy(EgressPolicy { audit: false, ..policy.clone() }),
            _ => continue,
        };
        if spec != resource.spec {
            changed.push(resource.key.clone());
            set.insert(Arc::new(Resource { spec, ..Resource::clone(&resource) }));
        }
    }
    changed
}

/// Who is to be asked about it; empty: nobody says.
pub fn owner(resource: &Resource) -> String {
    let annotation = resource.json.pointer("/metadata/annotations").and_then(|all| all.get(OWNER)?.as_str());
    let label = || resource.labels.get(OWNER_LABEL).map(String::as_str);
    annotation.or_else(label).unwrap_or_default().to_string()
}

/// Those that are active.
pub fn bypasses(set: &Set, now_ms: i64) -> Vec<wire::ActiveBypass> {
    let active = set.of_kind("Bypass", None).filter_map(|resource| match &resource.spec {
        Spec::Bypass(bypass) if bypass.until_unix_ms > now_ms => Some(wire::ActiveBypass {
            namespace: resource.key.namespace.clone(),
            service: bypass.services.join(","),
            until_unix_ms: bypass.until_unix_ms,
            operator: bypass.operator.clone(),
            reason: bypass.reason.clone(),
        }),
        _ => None,
    });
    active.collect()
}

/// The wire form of an egress view, out of a resource.
pub(crate) fn egress(resource: &discovery::Resource) -> Option<&discovery::Egress> {
    match &resource.body {
        Some(discovery::resource::Body::Egress(egress)) => Some(egress),
        _ => None,
    }
}

/// The wire form of an inbound view, out of a resource.
pub(crate) fn inbound(resource: &discovery::Resource) -> Option<&discovery::Inbound> {
    match &resource.body {
        Some(discovery::resource::Body::Inbound(inbound)) => Some(inbound),
        _ => None,
    }
}
