//! What the proxies are told, compiled by the proxy's own code: from a control plane, or from files alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_control::index::{Index, Trust, Vips, Wanted, allocate};
use isthmus_control::validate::{self, cross};
use isthmus_control::views::{self, Selection};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::model::{Egress as ToldEgress, EgressConditions, Enforcement, Inbound as Told, PortPolicy};
use isthmus_proxy::reason::Reason;
use isthmus_proxy::state::egress::Egress;
use isthmus_proxy::state::inbound::Inbound;
use isthmus_proxy::state::{AppProtocol, InboundPort};

use crate::connect::Policy;
use crate::documents;
use crate::failure::Failure;
use crate::problems::Problem;

/// What holds in files that name no trust domain.
const NO_TRUST_DOMAIN: &str = "cluster.local";

/// All that an answer needs.
pub(crate) struct Views {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) enforcement: Enforcement,
    pub(crate) callees: Vec<Callee>,
    pub(crate) services: Vec<isthmus_proto::discovery::v1::Service>,
    pub(crate) bypasses: Vec<wire::ActiveBypass>,
    policies: Vec<wire::PolicyOwner>,
    sites: Vec<Place>,
}

/// A site.
struct Place {
    name: String,
    ranges: Vec<IpNet>,
    /// What others see in place of its addresses.
    seen_as: Vec<IpNet>,
}

/// A workload with a sidecar.
pub(crate) struct Callee {
    pub(crate) workload: String,
    pub(crate) identity: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) inbound: Inbound,
    /// What may leave the mesh from there.
    pub(crate) egress: Egress,
    told: Told,
    told_egress: Option<ToldEgress>,
}

impl Views {
    /// As stored, with files on top of it. `namespace`, `service`: of the callee; empty: all.
    pub(crate) async fn stored(
        policy: &mut Policy,
        files: &[PathBuf],
        namespace: &str,
        service: &str,
    ) -> Result<Views, Failure> {
        let documents = if files.is_empty() { Vec::new() } else { documents::read(files)? };
        Self::with(policy, documents, namespace, service).await
    }

    /// The same with documents that were read already.
    pub(crate) async fn with(
        policy: &mut Policy,
        documents: Vec<wire::Document>,
        namespace: &str,
        service: &str,
    ) -> Result<Views, Failure> {
        let (namespace, service) = (namespace.to_owned(), service.to_owned());
        Self::compiled(policy, wire::CompileViewsRequest { documents, namespace, service, as_enforced: false }).await
    }

    /// The same in which nothing is in Audit, stored or not: what it would refuse is refused, whom it names is let through.
    pub(crate) async fn as_enforced(
        policy: &mut Policy,
        documents: Vec<wire::Document>,
        namespace: &str,
        service: &str,
    ) -> Result<Views, Failure> {
        let (namespace, service) = (namespace.to_owned(), service.to_owned());
        Self::compiled(policy, wire::CompileViewsRequest { documents, namespace, service, as_enforced: true }).await
    }

    async fn compiled(policy: &mut Policy, request: wire::CompileViewsRequest) -> Result<Views, Failure> {
        let answer = policy.call(async |client| client.compile_views(request).await).await?;
        if !answer.problems.is_empty() {
            return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
        }
        Self::read(answer)
    }

    /// Of files alone, as for a pipeline that has no control plane.
    pub(crate) fn of_files(files: &[PathBuf]) -> Result<Views, Failure> {
        let (mut set, mut problems) = (cross::Set::default(), Vec::new());
        for document in documents::read(files)? {
            let (parsed, found) = validate::parse(&document.source, &document.yaml);
            problems.extend(found);
            for parsed in parsed {
                set.insert(std::sync::Arc::new(parsed.resource));
            }
        }
        let mesh = cross::mesh_config(&set);
        let name = mesh.trust_domain.as_deref().unwrap_or(NO_TRUST_DOMAIN);
        let trust_domain = TrustDomain::parse(name).map_err(|e| Failure::plain(format!("trustDomain: {e}")))?;
        problems.extend(cross::check(&set, &trust_domain).faults.into_iter().map(|fault| validate::Problem {
            source: String::new(),
            line: 0,
            column: 0,
            resource: fault.key,
            field: fault.field,
            reason: fault.reason,
        }));
        if !problems.is_empty() {
            return Err(Failure::invalid(problems.into_iter().map(problem).collect()));
        }
        let trust =
            Trust { trust_domain, roots_der: Vec::new(), revocations: Default::default(), issuing: Default::default() };
        let keys: Vec<_> = set.keys().cloned().collect();
        let mut vips = Vips::default();
        vips.settle(&allocate(&set, &mesh.vip_ranges, &vips, &keys));
        let index = Index::build(Wanted { set: &set, vips: &vips, trust: &trust });
        let origin = |_: &validate::resource::Resource| "the files given".to_owned();
        Self::read(views::of(&set, &index, (Selection::default(), &|_| true), 0, origin))
    }

    fn read(answer: wire::CompileViewsResponse) -> Result<Views, Failure> {
        let unreadable = |e: &dyn std::fmt::Display| {
            let advice = "use the `isthmus` of the control plane's own release";
            Failure::new(format!("what the control plane compiled cannot be read: {e}"), advice)
        };
        let mesh = answer.mesh.unwrap_or_default();
        let trust_domain = match mesh.trust_domain.as_str() {
            "" => TrustDomain::parse(NO_TRUST_DOMAIN),
            name => TrustDomain::parse(name),
        };
        let mut callees = Vec::new();
        for view in answer.workloads {
            let told = Told::try_from(view.inbound.unwrap_or_default()).map_err(|e| unreadable(&e))?;
            let leaving = view.egress.map(ToldEgress::try_from).transpose().map_err(|e| unreadable(&e))?;
            callees.push(Callee {
                egress: leaving.clone().map_or_else(Egress::open, Egress::from),
                told_egress: leaving,
                workload: view.workload,
                labels: view.labels.into_iter().collect(),
                identity: view.spiffe_id,
                addresses: view.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                inbound: Inbound::next(told.clone(), &Inbound::refusing(Reason::NotReady, "nothing came before")),
                told,
            });
        }
        let ranges = |site: &isthmus_proto::discovery::v1::Site| {
            let read = |list: &[String]| list.iter().filter_map(|range| range.parse().ok()).collect();
            Place { name: site.name.clone(), ranges: read(&site.ranges), seen_as: read(&site.seen_as) }
        };
        Ok(Views {
            trust_domain: trust_domain.map_err(|e| unreadable(&e))?,
            enforcement: match mesh.enforcement() {
                isthmus_proto::discovery::v1::Enforcement::Enforce => Enforcement::Enforce,
                _ => Enforcement::Observe,
            },
            callees,
            services: answer.services,
            bypasses: answer.bypasses,
            policies: answer.policies,
            sites: mesh.sites.iter().map(ranges).collect(),
        })
    }

    pub(crate) fn callee(&self, workload: &str) -> Option<&Callee> {
        self.callees.iter().find(|callee| callee.workload == workload)
    }

    /// Of a ServicePolicy.
    pub(crate) fn owner(&self, policy: &str) -> Option<&wire::PolicyOwner> {
        self.policies.iter().find(|owner| owner.policy == policy && !owner.egress)
    }

    /// The site that is seen as the address, else the most specific one that holds it.
    pub(crate) fn site_of(&self, ip: IpAddr) -> Option<&str> {
        self.seen_as(ip).or_else(|| self.longest(ip, |site| &site.ranges))
    }

    fn seen_as(&self, ip: IpAddr) -> Option<&str> {
        self.longest(ip, |site| &site.seen_as)
    }

    fn longest(&self, ip: IpAddr, ranges: impl Fn(&Place) -> &[IpNet]) -> Option<&str> {
        let holding = self.sites.iter().filter_map(|site| {
            let longest = ranges(site).iter().filter(|range| range.contains(&ip)).map(IpNet::prefix_len).max()?;
            Some((longest, site.name.as_str()))
        });
        holding.max_by_key(|(longest, _)| *longest).map(|(_, name)| name)
    }

    /// As the callee's proxy has it: `None` where the address is the caller's own.
    pub(crate) fn behind<'a>(&self, callee: &'a Callee, peer: Option<&SpiffeId>, ip: IpAddr) -> Option<&'a [IpAddr]> {
        let site = self.seen_as(ip.to_canonical())?;
        Some(peer.map_or(&[], |peer| callee.inbound.registered(peer, site)))
    }

    /// One address of each site's ranges.
    pub(crate) fn site_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.sites.iter().flat_map(|site| site.ranges.iter().map(IpNet::network))
    }

    /// Who has this identity.
    pub(crate) fn callers(&self, identity: &SpiffeId) -> impl Iterator<Item = &Callee> {
        self.callees.iter().filter(move |callee| callee.identity == identity.as_str())
    }
}

impl Callee {
    pub(crate) fn port(&self, port: u16) -> &InboundPort {
        self.inbound.port(port)
    }

    /// The rules behind a port, in words; nothing where this build cannot read them.
    pub(crate) fn rules(&self, port: u16) -> Option<&PortPolicy> {
        let declared = self.told.ports.iter().find(|known| known.port == port).map(|known| &known.policy);
        declared.unwrap_or(&self.told.default_policy).as_ref().ok()
    }

    /// The rules for what leaves, in words.
    pub(crate) fn egress_rules(&self) -> impl Iterator<Item = &EgressConditions> {
        let rules = self.told_egress.iter().flat_map(|told| told.deny.iter().chain(&told.allow));
        rules.filter_map(|rule| rule.conditions.as_ref().ok())
    }

    pub(crate) fn is_tls(&self, port: u16) -> bool {
        matches!(self.port(port).protocol, AppProtocol::Tls | AppProtocol::Postgres)
    }
}

fn problem(problem: validate::Problem) -> Problem {
    let reference =
        |key: validate::ResourceRef| wire::ResourceRef { kind: key.kind, namespace: key.namespace, name: key.name };
    Problem::from(wire::Problem {
        source: problem.source,
        line: problem.line,
        column: problem.column,
        resource: Some(reference(problem.resource)),
        field: problem.field,
        reason: problem.reason,
    })
}
