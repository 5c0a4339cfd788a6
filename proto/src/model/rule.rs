//! One allow or deny rule and its conditions.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use isthmus_certs::SpiffeId;

use super::error::{NOT_UNDERSTOOD, bounded, each, parse, requires, unknown_value};
use super::{MAX_RULES, ModelError, SiteName, Understood};
use crate::discovery::v1 as wire;

/// A rule. What cannot be read of it is kept as such: a deny then matches everything, an allow nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `<namespace>/<name>` of the ServicePolicy.
    pub policy: String,
    /// Its place in that policy's list, from 0.
    pub index: u32,
    pub mode: RuleMode,
    pub conditions: Understood<Conditions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMode {
    Enforce,
    /// Never refuses and never grants; what it would have done is reported.
    Audit,
}

/// All that are present must hold; inside one, any value. None at all: the rule matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    pub identities: Option<Vec<IdentityPattern>>,
    pub namespaces: Option<Vec<String>>,
    pub sites: Option<Vec<SiteName>>,
    pub cidrs: Option<Vec<IpNet>>,
    /// The app's ports.
    pub ports: Option<Vec<u16>>,
    pub hosts: Option<Vec<HostPattern>>,
    pub methods: Option<Vec<String>>,
    pub paths: Option<Vec<PathPattern>>,
    pub headers: Vec<HeaderMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    Exact(SpiffeId),
    /// Without the `*`. Empty: any identity, but one there must be.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Lower case.
    Exact(String),
    /// `*.shop.example` as `.shop.example`: any host below it, not itself.
    Suffix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    Exact(String),
    /// Without the `*`. Empty: any path.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// Empty: present with any value.
    pub any_of: Vec<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.policy, self.index)
    }
}

impl From<wire::Rule> for Rule {
    fn from(mut r: wire::Rule) -> Self {
        let policy = std::mem::take(&mut r.policy);
        let index = r.index;
        let (mode, unreadable) = match wire::RuleMode::try_from(r.mode) {
            Ok(wire::RuleMode::Enforce) => (RuleMode::Enforce, None),
            Ok(wire::RuleMode::Audit) => (RuleMode::Audit, None),
            Ok(wire::RuleMode::Unspecified) | Err(_) => (RuleMode::Enforce, Some(unknown_value("mode", r.mode))),
        };
        let conditions = match unreadable {
            Some(error) => Err(error),
            None => Conditions::try_from(r),
        };
        Self { policy, index, mode, conditions }
    }
}

impl TryFrom<wire::Rule> for Conditions {
    type Error = ModelError;

    fn try_from(r: wire::Rule) -> Result<Self, ModelError> {
        requires(&r.requires)?;
        bounded("headers", &r.headers, MAX_RULES)?;
        let header = |(i, h): (usize, wire::HeaderCondition)| {
            HeaderMatch::try_from(h).map_err(|e| e.within(format!("headers[{i}]")))
        };
        Ok(Self {
            identities: condition("identities", r.identities, IdentityPattern::read)?,
            namespaces: condition("namespaces", r.namespaces, text)?,
            sites: condition("sites", r.sites, parse)?,
            cidrs: condition("cidrs", r.cidrs, parse)?,
            ports: condition("ports", r.ports, |t| match t.parse::<u16>() {
                Ok(port) if port != 0 => Ok(port),
                _ => Err("not a port (1 to 65535)"),
            })?,
            hosts: condition("hosts", r.hosts, HostPattern::read)?,
            methods: condition("methods", r.methods, method)?,
            paths: condition("paths", r.paths, PathPattern::read)?,
            headers: r.headers.into_iter().enumerate().map(header).collect::<Result<_, _>>()?,
        })
    }
}

/// A condition that is present without values would match nothing: as a deny it would be a hole, so it is an error.
fn condition<T, E: fmt::Display>(
    field: &str,
    message: Option<wire::Condition>,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<Vec<T>>, ModelError> {
    let Some(message) = message else { return Ok(None) };
    if message.any_of.is_empty() {
        return Err(ModelError::new(field, "present without a value: leave it out, or give one"));
    }
    bounded(field, &message.any_of, MAX_RULES)?;
    each(field, &message.any_of, read).map(Some)
}

fn text(t: &str) -> Result<String, &'static str> {
    if t.is_empty() { Err("empty") } else { Ok(t.to_owned()) }
}

/// RFC 9110 §9.1: a method is a token, and case matters.
fn method(t: &str) -> Result<String, &'static str> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !t.is_empty() && t.bytes().all(token) { Ok(t.to_owned()) } else { Err("not an HTTP method") }
}

impl IdentityPattern {
    fn read(t: &str) -> Result<Self, String> {
        match t.strip_suffix('*') {
            None => SpiffeId::parse(t).map(Self::Exact).map_err(|e| e.to_string()),
            Some(prefix) if prefix.contains('*') => Err("`*` may stand at the end only".to_owned()),
            Some(prefix) if prefix.is_empty() || prefix.starts_with("spiffe://") => Ok(Self::Prefix(prefix.to_owned())),
            Some(_) => Err("a prefix starts with `spiffe://`".to_owned()),
        }
    }
}

/// The one reading of the text form, for whoever accepts it from people.
impl FromStr for IdentityPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text)
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "{id}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl HostPattern {
    fn read(t: &str) -> Result<Self, &'static str> {
        let host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let lower = t.to_ascii_lowercase();
        let (rest, suffix) = match lower.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') && rest.len() > 1 => (rest, true),
            Some(_) => return Err("a wildcard reads `*.suffix`"),
            None => (lower.as_str(), false),
        };
        match (rest, suffix) {
            (text, _) if text.is_empty() || !text.bytes().all(host) => Err("not a host name"),
            (text, true) => Ok(Self::Suffix(text.to_owned())),
            (text, false) => Ok(Self::Exact(text.to_owned())),
        }
    }
}

/// The one reading of the text form, for whoever accepts it from people.
impl FromStr for HostPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl PathPattern {
    fn read(t: &str) -> Result<Self, &'static str> {
        let (path, prefix) = match t.strip_suffix('*') {
            Some(path) => (path, true),
            None => (t, false),
        };
        let any = prefix && path.is_empty();
        let ambiguous = path.contains("//") || path.split('/').any(|s| s == "." || s == "..");
        if !any && !path.starts_with('/') {
            Err("a path starts with `/`")
        } else if path.contains('*') {
            Err("`*` may stand at the end only")
        } else if path.contains(char::is_control) || path.contains(['%', '\\', '?', '#', ';']) || ambiguous {
            Err("write it decoded and plain, without `%`, `\\`, `?`, `#`, `;`, `//` and `..`: requests are compared so")
        } else if prefix {
            Ok(Self::Prefix(path.to_owned()))
        } else {
            Ok(Self::Exact(path.to_owned()))
        }
    }
}

/// The one reading of the text form, for whoever accepts it from people.
impl FromStr for PathPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl TryFrom<wire::HeaderCondition> for HeaderMatch {
    type Error = ModelError;

    fn try_from(h: wire::HeaderCondition) -> Result<Self, ModelError> {
        let name = method(&h.name).map_err(|_| ModelError::new("name", "not a header name"))?;
        bounded("any_of", &h.any_of, MAX_RULES)?;
        Ok(Self {
            name: name.to_ascii_lowercase(),
            any_of: each("any_of", &h.any_of, |t| Ok::<_, String>(t.to_owned()))?,
        })
    }
}

impl From<Rule> for wire::Rule {
    fn from(r: Rule) -> Self {
        let mode = match r.mode {
            RuleMode::Enforce => wire::RuleMode::Enforce,
            RuleMode::Audit => wire::RuleMode::Audit,
        };
        let named = wire::Rule { policy: r.policy, index: r.index, mode: mode.into(), ..Default::default() };
        match r.conditions {
            Ok(conditions) => conditions.write(named),
            Err(_) => wire::Rule { requires: vec![NOT_UNDERSTOOD.to_owned()], ..named },
        }
    }
}

impl Conditions {
    fn write(self, named: wire::Rule) -> wire::Rule {
        fn any_of<T: ToString>(values: Option<Vec<T>>) -> Option<wire::Condition> {
            values.map(|values| wire::Condition { any_of: values.iter().map(ToString::to_string).collect() })
        }
        let header = |h: HeaderMatch| wire::HeaderCondition { name: h.name, any_of: h.any_of };
        wire::Rule {
            identities: any_of(self.identities),
            namespaces: any_of(self.namespaces),
            sites: any_of(self.sites),
            cidrs: any_of(self.cidrs),
            ports: any_of(self.ports),
            hosts: any_of(self.hosts),
            methods: any_of(self.methods),
            paths: any_of(self.paths),
            headers: self.headers.into_iter().map(header).collect(),
            ..named
        }
    }
}
