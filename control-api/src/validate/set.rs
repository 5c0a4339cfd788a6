//! All resources of a mesh by name, and who refers to whom.
//!
//! Persistent: a copy costs nothing and shares all that does not change, and a change costs in proportion to itself. The
//! look-ups are for [`super::cross`] and [`crate::index`], which ask "whom does this concern" instead of looking at
//! everything; a kind whose references are not told here ([`references`]) is looked at with every change.

use super::problem::ResourceRef;
use super::resource::{Bypass, Enforcement, Labels, Resource, Spec, selects};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};
use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::{Bound, Deref};
use std::sync::Arc;

/// In place of a service's name: every service of the namespace.
pub const EVERY: &str = "*";

/// A few resources, in the order of their names.
pub type Members = RedBlackTreeSetSync<Member>;

/// A resource that is one of several by its name.
#[derive(Clone, Debug)]
pub struct Member(Arc<Resource>);

#[derive(Clone, Debug, Default)]
pub struct Set {
    all: RedBlackTreeMapSync<ResourceRef, Arc<Resource>>,
    /// Workloads by each of their labels.
    labelled: HashTrieMapSync<Label, Members>,
    /// Services by the first label of their selector: whoever has not that one is not selected.
    selecting: HashTrieMapSync<Label, Members>,
    /// Endpoints and EndpointSlices by each address that they hold.
    written_at: HashTrieMapSync<IpAddr, Members>,
    /// Who says that an address is his own: Workloads, and Services with their VIPs.
    claimants: HashTrieMapSync<IpAddr, Members>,
    /// Who names a resource, whether or not it exists.
    referrers: HashTrieMapSync<ResourceRef, Members>,
    /// Those of whom it is not known what they refer to.
    loose: Members,
    /// Workloads whose proxy's lease is over. Not stored: it is true of this moment.
    away: RedBlackTreeSetSync<ResourceRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Label {
    namespace: String,
    name: String,
    value: String,
}

/// What a resource names, by the kinds that are known to name something; none: it may look at anything.
fn references(resource: &Resource) -> Option<Vec<ResourceRef>> {
    let namespace = &resource.key.namespace;
    let site = |name: &String| ResourceRef::new("Site", "", name);
    let services = |names: &[String]| -> Vec<ResourceRef> {
        match names {
            [] => vec![ResourceRef::new("Service", namespace, EVERY)],
            names => names.iter().map(|name| ResourceRef::new("Service", namespace, name)).collect(),
        }
    };
    match &resource.spec {
        Spec::MeshConfig(_) | Spec::Site(_) | Spec::Service(_) | Spec::EgressPolicy(_) | Spec::Tenant(_) => {
            Some(Vec::new())
        }
        Spec::OperatorRole(role) => {
            Some(role.tenants.iter().map(|tenant| ResourceRef::new("Tenant", "", tenant)).collect())
        }
        Spec::Link(link) => Some(link.sites.iter().map(site).collect()),
        // Which TrustDomain that is, the workload does not say by its resource's name.
        Spec::Workload(workload) if workload.trust_domain.is_some() => None,
        Spec::Workload(workload) => Some(vec![site(&workload.site)]),
        Spec::Endpoints(endpoints) => Some(services(std::slice::from_ref(&endpoints.service))),
        Spec::TrafficPolicy(policy) => Some(services(&policy.services)),
        Spec::Enforcement(Enforcement { services: named, .. }) | Spec::Bypass(Bypass { services: named, .. }) => {
            Some(services(named))
        }
        Spec::ServicePolicy(policy) => {
            let conditions = policy.allow.iter().chain(&policy.deny).flat_map(|rule| [&rule.asked, &rule.not]);
            let sites = conditions.flat_map(|conditions| conditions.sites.iter().flatten()).map(site);
            Some(services(&policy.services).into_iter().chain(sites).collect())
        }
        #[allow(unreachable_patterns, reason = "a kind that is new here is looked at with every change")]
        _ => None,
    }
}

impl Set {
    pub fn get(&self, key: &ResourceRef) -> Option<&Arc<Resource>> {
        self.all.get(key)
    }

    pub fn contains_key(&self, key: &ResourceRef) -> bool {
        self.all.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.all.size()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ResourceRef> {
        self.all.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.all.values()
    }

    /// All of a kind; with a namespace, those in it.
    pub fn of_kind<'a>(&'a self, kind: &'a str, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Resource>> {
        let first = ResourceRef::new(kind, namespace.unwrap_or_default(), "");
        let from = self.all.range((Bound::Included(first), Bound::Unbounded));
        let belongs = move |key: &ResourceRef| key.kind == kind && namespace.is_none_or(|name| name == key.namespace);
        from.take_while(move |(key, _)| belongs(key)).map(|(_, resource)| resource)
    }

    /// Puts a resource in; the one of that name that was there before.
    pub fn insert(&mut self, resource: Arc<Resource>) -> Option<Arc<Resource>> {
        let is_away = self.away.contains(&resource.key);
        let old = self.remove(&resource.key);
        if is_away {
            self.away.insert_mut(resource.key.clone());
        }
        let member = Member(resource.clone());
        self.look_up(&member, true);
        self.all.insert_mut(resource.key.clone(), resource);
        old
    }

    pub fn remove(&mut self, key: &ResourceRef) -> Option<Arc<Resource>> {
        let old = self.all.get(key)?.clone();
        self.all.remove_mut(key);
        self.away.remove_mut(key);
        self.look_up(&Member(old.clone()), false);
        Some(old)
    }

    /// A Workload is away, or it is back.
    pub fn presence(&mut self, workload: &ResourceRef, is_away: bool) {
        if !is_away {
            self.away.remove_mut(workload);
        } else if self.all.contains_key(workload) {
            self.away.insert_mut(workload.clone());
        }
    }

    pub fn is_away(&self, workload: &ResourceRef) -> bool {
        self.away.contains(workload)
    }

    /// Does the same to every look-up that the resource belongs into.
    fn look_up(&mut self, member: &Member, is_there: bool) {
        let label = |(name, value): (&String, &String)| Label {
            namespace: member.key.namespace.clone(),
            name: name.clone(),
            value: value.clone(),
        };
        match &member.spec {
            Spec::Workload(workload) => {
                member.labels.iter().for_each(|pair| change(&mut self.labelled, label(pair), member, is_there));
                workload.addresses.iter().for_each(|ip| change(&mut self.claimants, *ip, member, is_there));
            }
            Spec::Service(service) => {
                let first = service.selector.iter().take(1);
                first.for_each(|pair| change(&mut self.selecting, label(pair), member, is_there));
                service.vips.iter().for_each(|ip| change(&mut self.claimants, *ip, member, is_there));
            }
            Spec::Endpoints(written) => {
                let addresses = written.subsets.iter().flat_map(|subset| &subset.addresses);
                addresses.for_each(|ip| change(&mut self.written_at, *ip, member, is_there));
            }
            _ => {}
        }
        match references(member) {
            Some(named) => named.into_iter().for_each(|key| change(&mut self.referrers, key, member, is_there)),
            None if is_there => self.loose.insert_mut(member.clone()),
            None => {
                self.loose.remove_mut(member);
            }
        }
    }

    /// Workloads of the namespace with all labels of the selector, found by its rarest one. An empty one selects none.
    pub fn selected<'a, 'b>(
        &'a self,
        namespace: &str,
        selector: &'b Labels,
    ) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a, 'b> {
        let all = |(name, value): (&String, &String)| {
            let (namespace, name, value) = (namespace.to_string(), name.clone(), value.clone());
            self.labelled.get(&Label { namespace, name, value })
        };
        let rarest = selector.iter().map(all).min_by_key(|members| members.map_or(0, Members::size)).flatten();
        rarest.into_iter().flat_map(Members::iter).map(|m| &m.0).filter(|w| selects(selector, &w.labels))
    }

    /// Services of the namespace whose selector these labels satisfy, in the order of their names.
    pub fn selecting(&self, namespace: &str, labels: &Labels) -> Members {
        let mut found = Members::default();
        for (name, value) in labels {
            let label = Label { namespace: namespace.to_string(), name: name.clone(), value: value.clone() };
            for member in self.selecting.get(&label).into_iter().flat_map(Members::iter) {
                if matches!(&member.spec, Spec::Service(service) if selects(&service.selector, labels)) {
                    found.insert_mut(member.clone());
                }
            }
        }
        found
    }

    /// Hand-written endpoints that hold this address.
    pub fn written_at(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Resource>> {
        self.written_at.get(&ip).into_iter().flat_map(Members::iter).map(|member| &member.0)
    }

    /// Every address in hand-written endpoints.
    pub fn written_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.written_at.keys()
    }

    /// Who says that an address is his; more than one is a fault of all but the first.
    pub fn claimants(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Resource>> {
        self.claimants.get(&ip).into_iter().flat_map(Members::iter).map(|member| &member.0)
    }

    /// Every address that a Workload or a Service claims.
    pub fn claimed_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.claimants.keys()
    }

    /// Who names this resource, in the order of their names. [`EVERY`] stands for all services of a namespace.
    pub fn referrers<'a>(&'a self, key: &ResourceRef) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        self.referrers.get(key).into_iter().flat_map(Members::iter).map(|member| &member.0)
    }

    /// Those of whom it is not known what they refer to.
    pub fn loose(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.loose.iter().map(|member| &member.0)
    }
}

fn change<K: Eq + std::hash::Hash + Clone>(
    map: &mut HashTrieMapSync<K, Members>,
    key: K,
    member: &Member,
    is_there: bool,
) {
    let mut members = map.get(&key).cloned().unwrap_or_default();
    if is_there {
        members.insert_mut(member.clone());
    } else {
        members.remove_mut(member);
    }
    if members.is_empty() {
        map.remove_mut(&key);
    } else {
        map.insert_mut(key, members);
    }
}

impl FromIterator<Arc<Resource>> for Set {
    fn from_iter<T: IntoIterator<Item = Arc<Resource>>>(resources: T) -> Self {
        let mut set = Set::default();
        resources.into_iter().for_each(|resource| drop(set.insert(resource)));
        set
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Deref for Member {
    type Target = Resource;

    fn deref(&self) -> &Resource {
        &self.0
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Member {}

impl PartialOrd for Member {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Member {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}
