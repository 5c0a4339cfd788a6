//! What a ServicePolicy says that is true and allowed, but hardly meant: rules that nothing can match, that another rule
//! makes idle, that have ended, or that close more than they name. Told when it is applied and by `isthmus lint`;
//! refuses nothing.

mod others;

use super::cross::{Fault, Set};
use super::field::nearest;
use super::resource::*;
use crate::index::Tenancy;
use ipnet::IpNet;
use isthmus_certs::SpiffeId;
use std::collections::BTreeSet;

#[cfg(test)]
#[path = "advice_test.rs"]
mod advice_test;

/// About one resource of a set; nothing, if it is no ServicePolicy.
pub fn of(set: &Set, resource: &Resource, trust_domain: &str, now_ms: i64) -> Vec<Fault> {
    let Spec::ServicePolicy(policy) = &resource.spec else { return Vec::new() };
    let mut advice = Advice { resource, found: Vec::new() };
    let world = World::of(set, resource, policy);
    for (list, rules) in [("allow", &policy.allow), ("deny", &policy.deny)] {
        for (i, rule) in rules.iter().enumerate() {
            let at = format!("spec.{list}[{i}]");
            if rule.until_ms.is_some_and(|until| until <= now_ms) {
                advice.say(format!("{at}.until"), "is over: the rule does nothing any more; remove it");
            }
            world.nobody(&mut advice, &at, rule, trust_domain);
            world.no_port(&mut advice, &at, rule);
            contradictions(&mut advice, &at, rule);
            let earlier = rules.iter().take(i).position(|other| covers(other, rule));
            if let Some(j) = earlier {
                advice.say(&at, format!("changes nothing: spec.{list}[{j}] matches all that it does"));
            }
            if list == "allow"
                && let Some(j) = policy.deny.iter().position(|deny| covers(deny, rule))
            {
                advice.say(&at, format!("never allows: spec.deny[{j}] refuses all that it matches"));
            }
            if list == "deny" {
                world.closes_more(&mut advice, &at, rule);
            }
        }
    }
    others::tell(&mut advice, set, resource, policy);
    advice.found
}

struct Advice<'a> {
    resource: &'a Resource,
    found: Vec<Fault>,
}

impl Advice<'_> {
    fn say(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.found.push(Fault { key: self.resource.key.clone(), field: field.into(), reason: reason.into() });
    }
}

/// What of a set a policy could be about.
struct World<'a> {
    namespaces: BTreeSet<&'a str>,
    /// Namespace and service account of each workload.
    accounts: BTreeSet<(&'a str, &'a str)>,
    tenancy: Tenancy,
    own: &'a str,
    /// The ports that the services which it selects send to, and what is spoken there; `None`: not all of them are known.
    ports: Option<Vec<(u16, u16, AppProtocol)>>,
}

impl<'a> World<'a> {
    fn of(set: &'a Set, resource: &'a Resource, policy: &'a ServicePolicy) -> Self {
        // Callers of a tenant that may not call are as if they were not there.
        let tenancy = Tenancy::of(set);
        let own = resource.key.namespace.as_str();
        let may_call = |namespace: &str| tenancy.sees(namespace, own);
        let workload = |r: &'a std::sync::Arc<Resource>| match &r.spec {
            Spec::Workload(workload) if may_call(&r.key.namespace) => {
                Some((r.key.namespace.as_str(), workload.service_account.as_str()))
            }
            _ => None,
        };
        let accounts: BTreeSet<_> = set.of_kind("Workload", None).filter_map(workload).collect();
        let selected = |r: &&std::sync::Arc<Resource>| policy.services.contains(&r.key.name);
        let services = set.of_kind("Service", Some(&resource.key.namespace)).filter(selected);
        let ports = services.flat_map(|r| match &r.spec {
            Spec::Service(service) => service.ports.as_slice(),
            _ => &[],
        });
        let number = |port: &ServicePort| match port.target {
            TargetPort::Number(number) => Some((port.port, number, port.protocol)),
            TargetPort::Name(_) => None,
        };
        let ports: Option<Vec<_>> = ports.map(number).collect();
        World {
            tenancy,
            namespaces: accounts.iter().map(|(namespace, _)| *namespace).collect(),
            accounts,
            own,
            ports: ports.filter(|ports| !ports.is_empty()),
        }
    }

    /// Callers that nobody is. Not said where the set has no workloads at all: they are elsewhere.
    fn nobody(&self, advice: &mut Advice, at: &str, rule: &Rule, trust_domain: &str) {
        let asked = &rule.asked;
        if self.accounts.is_empty() || asked.trust_domains.is_some() {
            return;
        }
        for (i, name) in asked.namespaces.iter().flatten().enumerate() {
            if !self.namespaces.contains(name.as_str()) {
                let known: Vec<&str> = self.namespaces.iter().copied().filter(|name| self.may_name(name)).collect();
                let hint = nearest(name, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                let reason = format!("matches nobody: no Workload is in namespace `{name}`{hint}");
                advice.say(format!("{at}.from.namespaces[{i}]"), reason);
            }
        }
        for (i, account) in asked.service_accounts.iter().flatten().enumerate() {
            let own = [self.own.to_string()];
            let namespaces = asked.namespaces.as_deref().unwrap_or(&own);
            let runs = |(namespace, name): &(&str, &str)| match account.split_once('/') {
                Some((of, wanted)) => *name == wanted && (of == "*" || of == *namespace),
                None => name == account && namespaces.iter().any(|of| of == namespace),
            };
            if !self.accounts.iter().any(runs) {
                let field = format!("{at}.from.serviceAccounts[{i}]");
                advice.say(field, format!("matches nobody: no Workload runs as `{account}`{}", self.near(account)));
            }
        }
        for (i, text) in asked.identities.iter().flatten().enumerate() {
            let Ok(id) = SpiffeId::parse(text) else { continue };
            if id.trust_domain().as_str() == trust_domain
                && !self.accounts.contains(&(id.namespace(), id.service_account()))
            {
                let name = format!("{}/{}", id.namespace(), id.service_account());
                let field = format!("{at}.from.identities[{i}]");
                advice.say(field, format!("matches nobody: no Workload runs as `{name}`{}", self.near(&name)));
            }
        }
    }

    /// Whether its own author is told of what is there.
    fn may_name(&self, namespace: &str) -> bool {
        self.tenancy.sees(self.own, namespace)
    }

    fn near(&self, account: &str) -> String {
        let qualified = account.contains('/');
        let name = |(namespace, name): &(&str, &str)| {
            if qualified { format!("{namespace}/{name}") } else { (*name).to_string() }
        };
        let here = self
            .accounts
            .iter()
            .filter(|(namespace, _)| *namespace == self.own || qualified && self.may_name(namespace));
        let known: Vec<String> = here.map(name).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        nearest(account, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    }

    /// The Service's port in place of the app's is the most common slip.
    fn no_port(&self, advice: &mut Advice, at: &str, rule: &Rule) {
        let (Some(known), Some(ports)) = (&self.ports, &rule.asked.ports) else { return };
        for (i, port) in ports.iter().enumerate() {
            if known.iter().any(|(_, target, _)| target == port) {
                continue;
            }
            let meant = known.iter().find(|(of_service, ..)| of_service == port);
            let hint = meant.map(|(_, target, _)| {
                format!("; {port} is the Service's port, whose app listens on {target}: did you mean `{target}`?")
            });
            let targets: Vec<String> = known.iter().map(|(_, target, _)| target.to_string()).collect();
            let reason = format!("no app that it selects listens on {port} ({})", targets.join(", "));
            advice.say(format!("{at}.to.ports[{i}]"), reason + &hint.unwrap_or_default());
        }
    }

    /// A deny on what only HTTP has is satisfied by everything that is no HTTP.
    fn closes_more(&self, advice: &mut Advice, at: &str, rule: &Rule) {
        let (asked, not) = (&rule.asked, &rule.not);
        let of_http = |half: &Conditions| {
            let named = half.paths.is_some() || half.methods.is_some() || half.hosts.is_some() || half.grpc.is_some();
            named || !half.headers.is_empty()
        };
        let http = of_http(asked) || of_http(not);
        let Some(ports) = self.ports.as_ref().filter(|_| http && asked.ports.is_none()) else { return };
        let bytes = |protocol: &AppProtocol| {
            matches!(protocol, AppProtocol::Tcp | AppProtocol::ServerFirst | AppProtocol::Postgres | AppProtocol::Tls)
        };
        for (_, target, _) in ports.iter().filter(|(.., protocol)| bytes(protocol)) {
            advice.say(
                at,
                format!("also closes port {target}, which carries no HTTP (unknown satisfies a deny); name `ports`"),
            );
        }
    }
}

/// Conditions of one rule that cannot hold together.
fn contradictions(advice: &mut Advice, at: &str, rule: &Rule) {
    let (asked, not) = (&rule.asked, &rule.not);
    let pairs = [
        ("from.notIdentities", within(&asked.identities, &not.identities)),
        ("from.notNamespaces", within(&asked.namespaces, &not.namespaces)),
        ("from.notServiceAccounts", within(&asked.service_accounts, &not.service_accounts)),
        ("from.notTrustDomains", within(&asked.trust_domains, &not.trust_domains)),
        ("from.notSites", within(&asked.sites, &not.sites)),
        ("from.notCidrs", within_ranges(&asked.cidrs, &not.cidrs)),
        ("to.notPorts", within(&asked.ports, &not.ports)),
        ("to.notMethods", within(&asked.methods, &not.methods)),
        ("to.notPaths", within(&asked.paths, &not.paths)),
        ("to.notHosts", within(&asked.hosts, &not.hosts)),
        ("to.notGrpc", within(&asked.grpc, &not.grpc)),
    ];
    for (field, _) in pairs.iter().filter(|(_, all)| *all) {
        advice.say(format!("{at}.{field}"), "leaves nothing of what the rule asks for: it can never match");
    }
    if let (Some(identities), Some(namespaces)) = (&asked.identities, &asked.namespaces) {
        let ids: Vec<_> = identities.iter().map(|text| SpiffeId::parse(text)).collect();
        let outside =
            |id: &Result<SpiffeId, _>| id.as_ref().is_ok_and(|id| !namespaces.iter().any(|n| n == id.namespace()));
        if ids.iter().all(outside) {
            advice.say(format!("{at}.from.namespaces"), "none of `identities` is in these: the rule can never match");
        }
    }
    if asked.grpc.is_some() && asked.methods.as_ref().is_some_and(|methods| !methods.iter().any(|m| m == "POST")) {
        advice.say(format!("{at}.to.methods"), "gRPC is POST: the rule can never match; leave `methods` out");
    }
}

/// All that is asked for is excluded again.
fn within<T: PartialEq>(asked: &Option<Vec<T>>, not: &Option<Vec<T>>) -> bool {
    match (asked, not) {
        (Some(asked), Some(not)) => asked.iter().all(|value| not.contains(value)),
        _ => false,
    }
}

fn within_ranges(asked: &Option<Vec<IpNet>>, not: &Option<Vec<IpNet>>) -> bool {
    asked.is_some() && not.is_some() && all_in(not, asked, |not, asked| not.contains(asked))
}

/// Whether `wide` matches whatever `narrow` does, as far as this can be read from them.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let (w, n) = (&wide.asked, &narrow.asked);
    let same = |wide: &String, narrow: &String| wide == narrow;
    wide.audit == narrow.audit
        && wide.until_ms.is_none_or(|wide| narrow.until_ms.is_some_and(|narrow| narrow <= wide))
        && (wide.not == Conditions::default() || wide.not == narrow.not)
        && all_in(&w.identities, &n.identities, |wide, narrow| wide == narrow || wide_identity(wide, narrow))
        && all_in(&w.trust_domains, &n.trust_domains, same)
        && all_in(&w.namespaces, &n.namespaces, same)
        && all_in(&w.service_accounts, &n.service_accounts, same)
        && (w.service_accounts.is_none() || w.namespaces == n.namespaces)
        && all_in(&w.sites, &n.sites, same)
        && all_in(&w.cidrs, &n.cidrs, |wide, narrow| wide.contains(narrow))
        && all_in(&w.ports, &n.ports, |wide, narrow| wide == narrow)
        && all_in(&w.hosts, &n.hosts, |wide, narrow| wide == narrow || wide_host(wide, narrow))
        && all_in(&w.methods, &n.methods, same)
        && all_in(&w.paths, &n.paths, |wide, narrow| wide == narrow || wide_path(wide, narrow))
        && all_in(&w.grpc, &n.grpc, |wide, narrow| wide == narrow || narrow.starts_with(&format!("{wide}/")))
        && w.headers.iter().all(|header| n.headers.contains(header))
}

fn all_in<T>(wide: &Option<Vec<T>>, narrow: &Option<Vec<T>>, holds: impl Fn(&T, &T) -> bool) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|narrow| wide.iter().any(|wide| holds(wide, narrow))),
    }
}

/// Each rule is compared with each other: nothing is parsed here, all of it is known to be sound.
fn wide_identity(wide: &str, narrow: &str) -> bool {
    wide.strip_suffix('*').is_some_and(|prefix| narrow.starts_with(prefix) && !prefix.contains('*'))
}

fn wide_host(wide: &str, narrow: &str) -> bool {
    wide.strip_prefix('*').is_some_and(|suffix| narrow.trim_start_matches('*').ends_with(suffix))
}

fn wide_path(wide: &str, narrow: &str) -> bool {
    wide.strip_suffix('*').is_some_and(|prefix| narrow.starts_with(prefix) && !prefix.contains('{'))
}
