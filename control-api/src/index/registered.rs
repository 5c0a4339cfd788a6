//! Who is registered behind what a site is seen as. A rule on addresses means the caller's own, which a callee elsewhere
//! does not see: it is told, where it has such rules, and of those who may call it.

use super::endpoints::Seen;
use super::identity_of;
use crate::validate::ResourceRef;
use crate::validate::resource::{Resource, ServicePolicy, Spec};
use crate::validate::set::Set;
use isthmus_certs::SpiffeId;
use isthmus_proto::discovery::v1 as wire;
use std::collections::BTreeMap;

/// What a workload of this namespace, with these rules, has to know.
pub(super) fn told(inbound: &wire::Inbound, namespace: &str, seen: &Seen) -> Vec<wire::Registered> {
    let policies = inbound.ports.iter().filter_map(|port| port.policy.as_ref()).chain(&inbound.default_policy);
    let mut rules = policies.flat_map(|policy| policy.deny.iter().chain(&policy.allow));
    if !rules.any(|rule| rule.cidrs.is_some() || rule.not_cidrs.is_some()) {
        return Vec::new();
    }
    let may_call = |one: &&wire::Registered| {
        let of = SpiffeId::parse(&one.spiffe_id).ok();
        of.is_some_and(|id| seen.tenancy.sees(id.namespace(), namespace))
    };
    seen.registered.get_or_init(|| all(seen)).iter().filter(may_call).cloned().collect()
}

fn all(seen: &Seen) -> Vec<wire::Registered> {
    let elsewhere = |site: &str| seen.sites.iter().any(|(name, of)| *name == site && !of.seen_as.is_empty());
    if seen.sites.iter().all(|(_, site)| site.seen_as.is_empty()) {
        return Vec::new();
    }
    let mut found: BTreeMap<(String, &str), Vec<String>> = BTreeMap::new();
    for resource in seen.set.of_kind("Workload", None) {
        let Spec::Workload(workload) = &resource.spec else { continue };
        if !elsewhere(&workload.site) {
            continue;
        }
        let Ok(identity) = identity_of(resource, workload, seen.trust) else { continue };
        let addresses = found.entry((identity.to_string(), &workload.site)).or_default();
        addresses.extend(workload.addresses.iter().map(ToString::to_string));
    }
    let one = |((spiffe_id, site), mut addresses): ((String, &str), Vec<String>)| {
        addresses.sort_unstable();
        wire::Registered { spiffe_id, site: site.to_string(), addresses }
    };
    found.into_iter().map(one).collect()
}

/// The policies whose workloads are told of somebody in this site.
pub(super) fn concerned<'a>(site: &str, set: &'a Set) -> Vec<&'a Resource> {
    let key = ResourceRef::new("Site", "", site);
    let elsewhere = matches!(set.get(&key).map(|site| &site.spec), Some(Spec::Site(site)) if !site.seen_as.is_empty());
    let asks = |resource: &&Resource| matches!(&resource.spec, Spec::ServicePolicy(policy) if by_address(policy));
    let policies = set.of_kind("ServicePolicy", None).map(|resource| &**resource);
    if elsewhere { policies.filter(asks).collect() } else { Vec::new() }
}

fn by_address(policy: &ServicePolicy) -> bool {
    let rules = policy.allow.iter().chain(&policy.deny);
    rules.flat_map(|rule| [&rule.asked, &rule.not]).any(|half| half.cidrs.is_some())
}
