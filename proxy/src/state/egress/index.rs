//! Rules found by what is known of a connection: by the whole name, by its suffixes, by the address, by the port. What a
//! look-up costs follows the name's labels and the different prefix lengths, never the number of rules.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use isthmus_proto::model::{EgressRule, HostPattern, RuleMode, TlsVersion, Transport};

use super::Leaving;

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) policy: Arc<str>,
    pub(super) index: u32,
    pub(super) mode: RuleMode,
    /// `None`: this build cannot read them.
    pub(super) conditions: Option<Conditions>,
}

#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) has_hosts: bool,
    names: Names,
    cidrs: Option<Nets<()>>,
    ports: Option<Box<[u16]>>,
    pub(super) transport: Option<Transport>,
    pub(super) min_tls: Option<TlsVersion>,
}

/// Names and suffixes of names, a value each.
#[derive(Debug)]
struct ByName<T> {
    exact: HashMap<Box<str>, T, RandomState>,
    /// `.example.com`.
    suffixes: HashMap<Box<str>, T, RandomState>,
}

type Names = ByName<()>;

/// Ranges, a value each; unlike `state::ranges`, all that hold an address are found, and not the longest alone.
#[derive(Debug)]
struct Nets<T> {
    lengths: Vec<(bool, u8)>,
    by_prefix: HashMap<IpNet, T, RandomState>,
}

/// Rules by what selects them best. A rule is under each of its hosts; without hosts under each of its ranges; without
/// ranges under each of its ports; else it is one of `any`. One of a deny list with hosts is also under what it has besides
/// hosts, for connections whose name is not seen.
#[derive(Debug)]
pub(super) struct Index {
    rules: Vec<Rule>,
    by_name: ByName<Vec<u32>>,
    by_net: Nets<Vec<u32>>,
    by_port: HashMap<u16, Vec<u32>, RandomState>,
    any: Vec<u32>,
    /// The same for rules with hosts: in a deny list, where the name is unknown; in an allow list those that have ranges
    /// too, to tell a wrong name from an unknown place.
    nameless_net: Nets<Vec<u32>>,
    nameless_port: HashMap<u16, Vec<u32>, RandomState>,
    nameless: Vec<u32>,
}

impl Index {
    pub(super) fn new(list: Vec<EgressRule>, deny: bool) -> Index {
        let mut index = Index {
            rules: Vec::with_capacity(list.len()),
            by_name: ByName::default(),
            by_net: Nets::default(),
            by_port: HashMap::default(),
            any: Vec::new(),
            nameless_net: Nets::default(),
            nameless_port: HashMap::default(),
            nameless: Vec::new(),
        };
        let mut policies: HashMap<String, Arc<str>, RandomState> = HashMap::default();
        for (rule, place) in list.into_iter().zip(0u32..) {
            let policy = policies.entry(rule.policy).or_insert_with_key(|name| name.as_str().into()).clone();
            if let Ok(conditions) = &rule.conditions {
                index.place(conditions, place, deny);
            } else {
                // A deny that cannot be read matches everything; such an allow matches nothing.
                index.any.extend(deny.then_some(place));
                index.nameless.extend(deny.then_some(place));
            }
            let conditions = rule.conditions.ok().map(Conditions::from);
            index.rules.push(Rule { policy, index: rule.index, mode: rule.mode, conditions });
        }
        index
    }

    fn place(&mut self, conditions: &isthmus_proto::model::EgressConditions, place: u32, deny: bool) {
        let (net, port, any) = match &conditions.hosts {
            None => (&mut self.by_net, &mut self.by_port, &mut self.any),
            Some(hosts) => {
                hosts.iter().for_each(|host| self.by_name.entry(host).push(place));
                if !deny && conditions.cidrs.is_none() {
                    return;
                }
                (&mut self.nameless_net, &mut self.nameless_port, &mut self.nameless)
            }
        };
        match (&conditions.cidrs, &conditions.ports) {
            (Some(cidrs), _) => cidrs.iter().for_each(|cidr| net.entry(*cidr).push(place)),
            (None, Some(ports)) => ports.iter().for_each(|number| port.entry(*number).or_default().push(place)),
            (None, None) => any.push(place),
        }
    }

    /// The first in the list's order that `matches`, among those that may; with `nameless` also among those for names.
    pub(super) fn first(
        &self,
        leaving: &Leaving<'_>,
        nameless: bool,
        matches: impl Fn(&Rule) -> bool,
    ) -> Option<&Rule> {
        let mut best: Option<u32> = None;
        let mut look = |places: &Vec<u32>| {
            // Each list is in order: the first that matches is its best.
            let earlier = places.iter().take_while(|place| best.is_none_or(|best| **place < best));
            let found = earlier.copied().find(|place| self.rule(*place).is_some_and(&matches));
            best = found.or(best);
        };
        if let Some(host) = leaving.host {
            self.by_name.each_of(host, &mut look);
        }
        let (ip, port) = (leaving.to.ip().to_canonical(), leaving.to.port());
        self.by_net.each_of(ip, &mut look);
        self.by_port.get(&port).into_iter().for_each(&mut look);
        look(&self.any);
        if nameless {
            self.nameless_net.each_of(ip, &mut look);
            self.nameless_port.get(&port).into_iter().for_each(&mut look);
            look(&self.nameless);
        }
        best.and_then(|place| self.rule(place))
    }

    fn rule(&self, place: u32) -> Option<&Rule> {
        self.rules.get(place as usize)
    }
}

impl Rule {
    pub(super) fn matches_allow(&self, leaving: &Leaving<'_>) -> bool {
        let Some(conditions) = &self.conditions else { return false };
        let named = !conditions.has_hosts || leaving.host.is_some_and(|host| conditions.names.has(host));
        named && conditions.match_address(leaving)
    }

    pub(super) fn matches_deny(&self, leaving: &Leaving<'_>) -> bool {
        let Some(conditions) = &self.conditions else { return true };
        let named = !conditions.has_hosts || leaving.host.is_none_or(|host| conditions.names.has(host));
        named && conditions.match_address(leaving)
    }

    /// It is for this very range and port, and for a name; the name that is seen is another.
    pub(super) fn names_another(&self, leaving: &Leaving<'_>) -> bool {
        let Some(conditions) = &self.conditions else { return false };
        let another = conditions.has_hosts && leaving.host.is_some_and(|host| !conditions.names.has(host));
        another && conditions.cidrs.is_some() && conditions.match_address(leaving)
    }
}

impl Conditions {
    fn match_address(&self, leaving: &Leaving<'_>) -> bool {
        let within = self.cidrs.as_ref().is_none_or(|cidrs| cidrs.has(leaving.to.ip().to_canonical()));
        within && self.ports.as_ref().is_none_or(|ports| ports.binary_search(&leaving.to.port()).is_ok())
    }
}

impl From<isthmus_proto::model::EgressConditions> for Conditions {
    fn from(conditions: isthmus_proto::model::EgressConditions) -> Conditions {
        let mut names = Names::default();
        for host in conditions.hosts.iter().flatten() {
            *names.entry(host) = ();
        }
        let cidrs = conditions.cidrs.map(|cidrs| {
            let mut nets = Nets::default();
            cidrs.into_iter().for_each(|cidr| *nets.entry(cidr) = ());
            nets
        });
        let ports = conditions.ports.map(|mut ports| {
            ports.sort_unstable();
            ports.into_boxed_slice()
        });
        let has_hosts = conditions.hosts.is_some();
        Conditions {
            has_hosts,
            names,
            cidrs,
            ports,
            transport: conditions.transport,
            min_tls: conditions.min_tls_version,
        }
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        ByName { exact: HashMap::default(), suffixes: HashMap::default() }
    }
}

impl<T: Default> ByName<T> {
    fn entry(&mut self, host: &HostPattern) -> &mut T {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.trim_end_matches('.').into()).or_default(),
            HostPattern::Suffix(suffix) => self.suffixes.entry(suffix.trim_end_matches('.').into()).or_default(),
        }
    }

    fn each_of<'a>(&'a self, name: &str, mut each: impl FnMut(&'a T)) {
        if let Some(value) = self.exact.get(name) {
            each(value);
        }
        if self.suffixes.is_empty() {
            return;
        }
        for (at, _) in name.match_indices('.') {
            if let Some(value) = self.suffixes.get(&name[at..]) {
                each(value);
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        let mut found = false;
        self.each_of(name, |_| found = true);
        found
    }
}

impl<T> Default for Nets<T> {
    fn default() -> Self {
        Nets { lengths: Vec::new(), by_prefix: HashMap::default() }
    }
}

impl<T: Default> Nets<T> {
    fn entry(&mut self, net: IpNet) -> &mut T {
        let net = net.trunc();
        let length = (net.addr().is_ipv4(), net.prefix_len());
        if !self.lengths.contains(&length) {
            self.lengths.push(length);
        }
        self.by_prefix.entry(net).or_default()
    }

    fn each_of<'a>(&'a self, ip: IpAddr, mut each: impl FnMut(&'a T)) {
        for (_, length) in self.lengths.iter().filter(|(v4, _)| *v4 == ip.is_ipv4()) {
            let net = IpNet::new(ip, *length).ok().map(|net| net.trunc());
            if let Some(value) = net.and_then(|net| self.by_prefix.get(&net)) {
                each(value);
            }
        }
    }

    fn has(&self, ip: IpAddr) -> bool {
        let mut found = false;
        self.each_of(ip, |_| found = true);
        found
    }
}
