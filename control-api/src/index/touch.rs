//! Whom a change concerns: the workloads, services and addresses that may look different after it. More than that costs
//! time; less would leave somebody with a view that is no longer true, so a kind that is new here touches everything.

use super::vips::{Given, Vips};
use crate::validate::ResourceRef;
use crate::validate::resource::{Bypass, Enforcement, Resource, ServicePolicy, Spec, selects};
use crate::validate::set::Set;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) mesh: bool,
    pub(super) everything: bool,
    pub(super) workloads: BTreeSet<ResourceRef>,
    pub(super) services: BTreeSet<ResourceRef>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Touched {
    /// By resources that were put or deleted, as they were and as they are, and by VIPs that were given.
    pub(super) fn by(before: &Set, after: &Set, keys: &[ResourceRef], vips: &Vips, given: &Given) -> Self {
        let mut touched = Touched::default();
        for key in keys {
            for set in [before, after] {
                if let Some(resource) = set.get(key) {
                    touched.resource(resource, set);
                }
            }
            // Its endpoints and policies are in both sets, and may have found their service only now.
            if key.kind == "Service" {
                touched.service(key, before);
                touched.service(key, after);
            }
        }
        for (service, ips) in given {
            touched.services.insert(service.clone());
            touched.addresses.extend(vips.of(service).iter().chain(ips));
        }
        touched
    }

    fn resource(&mut self, resource: &Resource, set: &Set) {
        let key = &resource.key;
        match &resource.spec {
            Spec::Link(_) | Spec::TrustDomain(_) => self.mesh = true,
            Spec::Workload(workload) => {
                self.services.extend(set.selecting(&key.namespace, &resource.labels).iter().map(|s| s.key.clone()));
                self.addresses.extend(&workload.addresses);
                self.workload(resource, set);
                super::registered::concerned(&workload.site, set).into_iter().for_each(|r| self.resource(r, set));
            }
            Spec::Service(service) => self.addresses.extend(&service.vips),
            Spec::Endpoints(written) => {
                self.services.extend(service_of(resource));
                self.addresses.extend(written.subsets.iter().flat_map(|subset| &subset.addresses));
            }
            Spec::TrafficPolicy(policy) => self.services_named(&key.namespace, &policy.services, set),
            Spec::ServicePolicy(ServicePolicy { services, .. })
            | Spec::Enforcement(Enforcement { services, .. })
            | Spec::Bypass(Bypass { services, .. }) => {
                if services.is_empty() {
                    // Also ports that no service declares.
                    let all = set.of_kind("Workload", Some(&key.namespace));
                    all.for_each(|workload| self.workload(workload, set));
                }
                self.services_named(&key.namespace, services, set);
            }
            Spec::EgressPolicy(policy) => {
                // Whether anything is restricted at all is said to everybody.
                self.mesh = true;
                let all = set.of_kind("Workload", Some(&key.namespace));
                let mine = all.filter(|w| policy.workloads.as_ref().is_none_or(|labels| selects(labels, &w.labels)));
                self.workloads.extend(mine.map(|workload| workload.key.clone()));
            }
            // Who may change what is nothing that a proxy is told.
            Spec::OperatorRole(_) => {}
            _ => self.everything = true,
        }
    }

    /// A workload, and the services into whose endpoints its address was written by hand.
    fn workload(&mut self, resource: &Resource, set: &Set) {
        self.workloads.insert(resource.key.clone());
        let Spec::Workload(workload) = &resource.spec else { return };
        let written = workload.addresses.iter().flat_map(|ip| set.written_at(*ip));
        self.services.extend(written.filter_map(|endpoints| service_of(endpoints)));
    }

    fn services_named(&mut self, namespace: &str, names: &[String], set: &Set) {
        if names.is_empty() {
            let all: Vec<ResourceRef> =
                set.of_kind("Service", Some(namespace)).map(|service| service.key.clone()).collect();
            all.iter().for_each(|service| self.service(service, set));
        }
        names.iter().for_each(|name| self.service(&ResourceRef::new("Service", namespace, name), set));
    }

    /// A service, who is behind it, and what was written for it.
    fn service(&mut self, key: &ResourceRef, set: &Set) {
        self.services.insert(key.clone());
        if let Some(Spec::Service(service)) = set.get(key).map(|resource| &resource.spec) {
            let selected = set.selected(&key.namespace, &service.selector);
            self.workloads.extend(selected.map(|workload| workload.key.clone()));
        }
        for resource in set.referrers(key) {
            if let Spec::Endpoints(written) = &resource.spec {
                self.addresses.extend(written.subsets.iter().flat_map(|subset| &subset.addresses));
            }
        }
    }
}

fn service_of(endpoints: &Resource) -> Option<ResourceRef> {
    match &endpoints.spec {
        Spec::Endpoints(written) => Some(ResourceRef::new("Service", &endpoints.key.namespace, &written.service)),
        _ => None,
    }
}
