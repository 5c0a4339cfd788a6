//! Which rules of a list can match at all, found by looking up what is known and not by trying one rule after the other.
//!
//! A few rules are tried in their order. More are split by the attribute that tells most of them apart: each rule stands
//! under the values that its condition names, or among those that have no condition there; each part is split again
//! where it is still long. So 10,000 rules cost a look-up or two more than 10. A rule that is found is tried in full:
//! nothing here needs to be exact, it must only never leave out a rule that would have matched. `not…` conditions are
//! no way to find a rule.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::HeaderName;
use isthmus_proto::model::{GrpcPattern, HeaderMatch, HostPattern, PathPattern};

use super::compile::CompiledConditions;
use super::keys::{Key, Keys};
use super::matching::{Known, Side, folded, header_items};

/// So many rules are tried one by one: splitting them costs as much.
const FEW: usize = 6;
/// A rule may stand in several places of the tree; so many for each rule, then lists are left long.
const PLACES_PER_RULE: usize = 64;

/// Places of rules, found by what their conditions ask for.
#[derive(Debug)]
pub(super) struct Tree {
    side: Side,
    root: Node,
}

#[derive(Debug)]
enum Node {
    /// In their order.
    Few(Box<[u32]>),
    Split(Box<Split>),
}

#[derive(Debug)]
struct Split {
    by: By,
    /// Rules that do not ask for it, or in a way that cannot be looked up.
    without: Node,
    /// All rules, for a deny list where it is not known: unknown satisfies what a deny asks for.
    unknown: Option<Node>,
}

#[derive(Debug)]
enum By {
    Value(Attribute, Keys<Node>),
    Header(HashMap<HeaderName, Keys<Node>, RandomState>),
}

/// What rules are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attribute {
    Identity,
    Namespace,
    TrustDomain,
    Site,
    Address,
    Port,
    Path,
    Host,
    Grpc,
    Method,
    Header,
}

/// The more telling of two that split equally well comes first.
const ATTRIBUTES: [Attribute; 11] = [
    Attribute::Identity,
    Attribute::Path,
    Attribute::Grpc,
    Attribute::Host,
    Attribute::Address,
    Attribute::Header,
    Attribute::Port,
    Attribute::Namespace,
    Attribute::Site,
    Attribute::TrustDomain,
    Attribute::Method,
];

impl Attribute {
    /// One bit for what is known or unknown together.
    fn group(self) -> u8 {
        match self {
            Attribute::Identity | Attribute::Namespace | Attribute::TrustDomain => 1,
            Attribute::Site => 2,
            Attribute::Path | Attribute::Host | Attribute::Method | Attribute::Header => 4,
            Attribute::Grpc => 8,
            Attribute::Address => 16,
            Attribute::Port => 0,
        }
    }
}

/// A header's name beside a key: only [`Attribute::Header`] has one.
type Place = (Option<HeaderName>, Key);

impl Tree {
    /// `rules`: their places and conditions, in order.
    pub(super) fn new(side: Side, rules: &[(u32, &CompiledConditions)]) -> Tree {
        let mut places = rules.len() * PLACES_PER_RULE + 1_024;
        Tree { side, root: Builder { side, places: &mut places }.node(rules, 0) }
    }

    /// The lowest place below `best` that passes `test`, of all that can match; `best` if there is none.
    pub(super) fn first(&self, known: &Known, best: u32, mut test: impl FnMut(u32) -> bool) -> u32 {
        let mut search = Search { known, side: self.side, best, test: &mut test };
        search.node(&self.root);
        search.best
    }
}

struct Builder<'a> {
    side: Side,
    /// How many more may be used.
    places: &'a mut usize,
}

impl Builder<'_> {
    /// `not_by`: groups of attributes that cannot be looked up here.
    fn node(&mut self, rules: &[(u32, &CompiledConditions)], not_by: u8) -> Node {
        let few = || Node::Few(rules.iter().map(|(place, _)| *place).collect());
        if rules.len() <= FEW || *self.places < rules.len() {
            return few();
        }
        let candidates = ATTRIBUTES.iter().filter(|attribute| attribute.group() & not_by == 0);
        let best = candidates.map(|attribute| (self.longest(rules, *attribute), *attribute)).min_by_key(|(n, _)| *n);
        match best {
            Some((longest, attribute)) if longest < rules.len() => self.split(rules, attribute, not_by),
            _ => few(),
        }
    }

    /// How many rules one value can lead to, those that do not ask for it included. (Prefixes of each other add up; this
    /// is a guess.)
    fn longest(&self, rules: &[(u32, &CompiledConditions)], attribute: Attribute) -> usize {
        let mut count: HashMap<Place, usize, RandomState> = HashMap::default();
        let (mut without, mut places) = (0, 0);
        for (_, conditions) in rules {
            let Some(keys) = self.keys(conditions, attribute) else {
                without += 1;
                continue;
            };
            places += keys.len();
            keys.into_iter().for_each(|key| *count.entry(key).or_default() += 1);
        }
        // One that most rules do not ask for tells little apart, but what it tells it tells.
        let longest = count.values().copied().max().unwrap_or(0);
        if places > *self.places { usize::MAX } else { without + longest }
    }

    fn split(&mut self, rules: &[(u32, &CompiledConditions)], attribute: Attribute, not_by: u8) -> Node {
        let mut under: HashMap<Place, Vec<(u32, &CompiledConditions)>, RandomState> = HashMap::default();
        let mut without = Vec::new();
        for (place, conditions) in rules {
            let Some(keys) = self.keys(conditions, attribute) else {
                without.push((*place, *conditions));
                continue;
            };
            for key in keys {
                let list = under.entry(key).or_default();
                // One rule may name a value twice.
                if list.last().is_none_or(|(last, _)| last != place) {
                    *self.places = self.places.saturating_sub(1);
                    list.push((*place, *conditions));
                }
            }
        }
        let group = attribute.group();
        let unknown = (self.side == Side::Deny && group != 0).then(|| self.node(rules, not_by | group));
        let without = self.node(&without, not_by);
        let nodes: Vec<(Place, Node)> = under.into_iter().map(|(key, list)| (key, self.node(&list, not_by))).collect();
        Node::Split(Box::new(Split { by: By::new(attribute, nodes), without, unknown }))
    }

    /// The values that a rule can be found by; `None`: it does not ask for this, or cannot be found so.
    fn keys(&self, conditions: &CompiledConditions, attribute: Attribute) -> Option<Vec<Place>> {
        let asked = &conditions.asked;
        let exact = |text: &str| Some(Key::Exact(text.as_bytes().into()));
        let all = |keys: &mut dyn Iterator<Item = Option<Key>>| -> Option<Vec<Place>> {
            keys.map(|key| key.map(|key| (None, key))).collect()
        };
        match attribute {
            Attribute::Identity => {
                let ids = asked.identities.as_ref()?;
                let exact = ids.exact.iter().map(|id| exact(id.as_str()));
                let prefixes = ids.prefixes.iter().map(|prefix| Some(Key::Prefix(prefix.as_bytes().into())));
                all(&mut exact.chain(prefixes).chain(ids.wildcards.iter().map(|t| Key::template(t, false, false))))
            }
            Attribute::Namespace => all(&mut asked.namespaces.as_ref()?.iter().map(|name| exact(name))),
            Attribute::TrustDomain => all(&mut asked.trust_domains.as_ref()?.iter().map(|name| exact(name))),
            Attribute::Site => all(&mut asked.sites.as_ref()?.iter().map(|name| exact(name))),
            Attribute::Address => all(&mut asked.cidrs.as_ref()?.iter().map(|range| Some(Key::range(range)))),
            Attribute::Port => {
                all(&mut asked.ports.as_ref()?.iter().map(|port| Some(Key::Exact(port.to_be_bytes().into()))))
            }
            Attribute::Method => {
                let folded = |method: &String| exact(&method.to_ascii_uppercase());
                all(&mut asked.methods.as_ref()?.iter().map(folded))
            }
            Attribute::Host => all(&mut asked.hosts.as_ref()?.iter().map(|pattern| Some(host_key(pattern)))),
            Attribute::Grpc => all(&mut asked.grpc.as_ref()?.iter().map(|pattern| Some(grpc_key(pattern)))),
            Attribute::Path => {
                let near =
                    |pattern: &PathPattern| [Some(self.path_key(pattern)), self.near_path_key(pattern).map(Some)];
                all(&mut asked.paths.as_ref()?.iter().flat_map(near).flatten())
            }
            Attribute::Header => self.header_keys(conditions),
        }
    }

    /// By the first that has values. A deny is also found by a value that differs in case.
    fn header_keys(&self, conditions: &CompiledConditions) -> Option<Vec<Place>> {
        let can_be_looked_up = |header: &&HeaderMatch| !header.any_of.is_empty() && !header.name.contains('_');
        let header = conditions.asked.headers.iter().find(can_be_looked_up)?;
        let name = HeaderName::try_from(header.name.as_str()).ok()?;
        let fold = |value: &String| match self.side {
            Side::Deny => value.to_ascii_lowercase().into_bytes(),
            Side::Allow => value.clone().into_bytes(),
        };
        Some(header.any_of.iter().map(|value| (Some(name.clone()), Key::Exact(fold(value).into()))).collect())
    }

    /// A deny is also found by a path that differs in case, or in a `/` at the end.
    fn path_key(&self, pattern: &PathPattern) -> Option<Key> {
        let fold = self.side == Side::Deny;
        let folded = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() }.into_bytes();
        Some(match pattern {
            PathPattern::Exact(path) if fold => Key::Exact(super::path::bare(&folded(path)).into()),
            PathPattern::Exact(path) => Key::Exact(folded(path).into()),
            PathPattern::Prefix(prefix) => Key::Prefix(folded(prefix).into()),
            PathPattern::Template(template) => return Key::template(template, template.is_open(), fold),
        })
    }

    /// `/orders` may be meant where `/orders/*` is denied.
    fn near_path_key(&self, pattern: &PathPattern) -> Option<Key> {
        match pattern {
            _ if self.side == Side::Allow => None,
            PathPattern::Prefix(prefix) if prefix.len() > 1 && prefix.ends_with('/') => {
                Some(Key::Exact(super::path::bare(prefix.to_ascii_lowercase().as_bytes()).into()))
            }
            PathPattern::Template(template) if template.is_open() => Key::template(template, false, true),
            _ => None,
        }
    }
}

fn host_key(pattern: &HostPattern) -> Key {
    match pattern {
        HostPattern::Exact(host) => Key::Exact(host.as_bytes().into()),
        HostPattern::Suffix(suffix) => Key::Suffix(suffix.as_bytes().into()),
    }
}

/// A service is a prefix of its methods.
fn grpc_key(pattern: &GrpcPattern) -> Key {
    match pattern {
        GrpcPattern::Service(service) => Key::Prefix(format!("{service}/").into_bytes().into()),
        GrpcPattern::Method(method) => Key::Exact(method.as_bytes().into()),
    }
}

impl By {
    fn new(attribute: Attribute, nodes: Vec<(Place, Node)>) -> By {
        if attribute != Attribute::Header {
            return By::Value(attribute, Keys::new(nodes.into_iter().map(|((_, key), node)| (key, node))));
        }
        let mut by_name: HashMap<HeaderName, Vec<(Key, Node)>, RandomState> = HashMap::default();
        for ((name, key), node) in nodes {
            if let Some(name) = name {
                by_name.entry(name).or_default().push((key, node));
            }
        }
        By::Header(by_name.into_iter().map(|(name, nodes)| (name, Keys::new(nodes))).collect())
    }
}

struct Search<'a, 'k, F> {
    known: &'a Known<'k>,
    side: Side,
    best: u32,
    test: &'a mut F,
}

impl<F: FnMut(u32) -> bool> Search<'_, '_, F> {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Few(places) => {
                for place in places {
                    if *place >= self.best {
                        return;
                    }
                    if (self.test)(*place) {
                        self.best = *place;
                        return;
                    }
                }
            }
            Node::Split(split) => {
                let is_known = match &split.by {
                    By::Value(attribute, keys) => self.values(*attribute, keys),
                    By::Header(names) => self.headers(names),
                };
                match &split.unknown {
                    Some(all) if !is_known => self.node(all),
                    _ => self.node(&split.without),
                }
            }
        }
    }

    /// Goes on under each value that is known. Returns whether one is.
    fn values(&mut self, attribute: Attribute, keys: &Keys<Node>) -> bool {
        let known = self.known;
        let text = match attribute {
            Attribute::Address => return known.each_ip(|ip| keys.of_address(ip, |node| self.node(node))),
            Attribute::Port => {
                keys.of_text(&known.port().to_be_bytes(), false, |node| self.node(node));
                return true;
            }
            Attribute::Path => return self.paths(keys),
            Attribute::Host => {
                let Some(host) = known.host() else { return false };
                keys.of_host(host.as_bytes(), |node| self.node(node));
                return true;
            }
            Attribute::Identity => known.peer().map(|id| id.as_str()),
            Attribute::Namespace => known.namespace(),
            Attribute::TrustDomain => known.trust_domain(),
            Attribute::Site => known.site(),
            Attribute::Grpc => known.grpc(),
            Attribute::Method => known.folded_method(),
            Attribute::Header => None,
        };
        let Some(text) = text else { return false };
        keys.of_text(text.as_bytes(), false, |node| self.node(node));
        true
    }

    fn paths(&mut self, keys: &Keys<Node>) -> bool {
        let (known, fold) = (self.known, self.side == Side::Deny);
        known.each_path_reading(fold, |path| {
            keys.of_text(path, fold, |node| self.node(node));
            let bare = super::path::bare(path);
            if fold && bare.len() < path.len() {
                keys.of_text(bare, fold, |node| self.node(node));
            }
        })
    }

    /// A deny may match by one item of a header that holds a list, and by a header whose name is spelled otherwise.
    fn headers(&mut self, names: &HashMap<HeaderName, Keys<Node>, RandomState>) -> bool {
        let (known, deny) = (self.known, self.side == Side::Deny);
        let Some(headers) = known.headers() else { return false };
        if deny && known.has_underscored() {
            let mut odd = headers.keys().filter(|name| name.as_str().contains('_'));
            let dashed = |name: &HeaderName| HeaderName::try_from(name.as_str().replace('_', "-")).ok();
            if odd.any(|name| dashed(name).is_some_and(|name| names.contains_key(&name))) {
                return false;
            }
        }
        let mut under = |keys: &Keys<Node>, value: &[u8]| {
            if !deny {
                return keys.of_text(value, false, |node| self.node(node));
            }
            folded(value, |value| {
                keys.of_text(value, false, |node| self.node(node));
                if value.iter().any(|b| matches!(b, b',' | b';' | b'"')) {
                    header_items(value).for_each(|item| keys.of_text(item, false, |node| self.node(node)));
                }
            });
        };
        if names.len() <= headers.len() {
            for (name, keys) in names {
                headers.get_all(name).iter().for_each(|value| under(keys, value.as_bytes()));
            }
        } else {
            for (name, value) in headers {
                if let Some(keys) = names.get(name) {
                    under(keys, value.as_bytes());
                }
            }
        }
        true
    }
}
