//! One allow or deny rule and its conditions.

use std::fmt;

use ipnet::IpNet;
use isthmus_certs::TrustDomain;

use super::error::{NOT_UNDERSTOOD, bounded, each, parse, requires, unknown_value};
use super::pattern::{GrpcPattern, HeaderMatch, HostPattern, IdentityPattern, PathPattern};
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
    /// Unix time in milliseconds: from then on there is no such rule. `None`: it has no end.
    pub until_ms: Option<i64>,
    pub conditions: Understood<Conditions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMode {
    Enforce,
    /// Never refuses and never grants; what it would have done is reported.
    Audit,
}

/// All that are present must hold; inside one, any value. None at all: the rule matches everything. A `not_` condition
/// holds where none of its values does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conditions {
    pub identities: Option<Vec<IdentityPattern>>,
    pub trust_domains: Option<Vec<TrustDomain>>,
    pub namespaces: Option<Vec<String>>,
    pub sites: Option<Vec<SiteName>>,
    pub cidrs: Option<Vec<IpNet>>,
    /// The app's ports.
    pub ports: Option<Vec<u16>>,
    pub hosts: Option<Vec<HostPattern>>,
    pub methods: Option<Vec<String>>,
    pub paths: Option<Vec<PathPattern>>,
    pub grpc: Option<Vec<GrpcPattern>>,
    pub headers: Vec<HeaderMatch>,
    pub not_identities: Option<Vec<IdentityPattern>>,
    pub not_trust_domains: Option<Vec<TrustDomain>>,
    pub not_namespaces: Option<Vec<String>>,
    pub not_sites: Option<Vec<SiteName>>,
    pub not_cidrs: Option<Vec<IpNet>>,
    pub not_ports: Option<Vec<u16>>,
    pub not_hosts: Option<Vec<HostPattern>>,
    pub not_methods: Option<Vec<String>>,
    pub not_paths: Option<Vec<PathPattern>>,
    pub not_grpc: Option<Vec<GrpcPattern>>,
    pub not_headers: Vec<HeaderMatch>,
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
        let until_ms = (r.until_unix_ms != 0).then_some(r.until_unix_ms);
        let conditions = match unreadable {
            Some(error) => Err(error),
            None => Conditions::try_from(r),
        };
        Self { policy, index, mode, until_ms, conditions }
    }
}

impl TryFrom<wire::Rule> for Conditions {
    type Error = ModelError;

    fn try_from(r: wire::Rule) -> Result<Self, ModelError> {
        requires(&r.requires)?;
        Ok(Self {
            identities: condition("identities", r.identities, parse)?,
            trust_domains: condition("trust_domains", r.trust_domains, TrustDomain::parse)?,
            namespaces: condition("namespaces", r.namespaces, text)?,
            sites: condition("sites", r.sites, parse)?,
            cidrs: condition("cidrs", r.cidrs, parse)?,
            ports: condition("ports", r.ports, port)?,
            hosts: condition("hosts", r.hosts, parse)?,
            methods: condition("methods", r.methods, method)?,
            paths: condition("paths", r.paths, parse)?,
            grpc: condition("grpc", r.grpc, parse)?,
            headers: headers("headers", r.headers)?,
            not_identities: condition("not_identities", r.not_identities, parse)?,
            not_trust_domains: condition("not_trust_domains", r.not_trust_domains, TrustDomain::parse)?,
            not_namespaces: condition("not_namespaces", r.not_namespaces, text)?,
            not_sites: condition("not_sites", r.not_sites, parse)?,
            not_cidrs: condition("not_cidrs", r.not_cidrs, parse)?,
            not_ports: condition("not_ports", r.not_ports, port)?,
            not_hosts: condition("not_hosts", r.not_hosts, parse)?,
            not_methods: condition("not_methods", r.not_methods, method)?,
            not_paths: condition("not_paths", r.not_paths, parse)?,
            not_grpc: condition("not_grpc", r.not_grpc, parse)?,
            not_headers: headers("not_headers", r.not_headers)?,
        })
    }
}

/// A condition that is present without values would match nothing: as a deny it would be a hole, so it is an error.
pub(super) fn condition<T, E: fmt::Display>(
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

fn headers(field: &str, messages: Vec<wire::HeaderCondition>) -> Result<Vec<HeaderMatch>, ModelError> {
    bounded(field, &messages, MAX_RULES)?;
    let header = |(i, h): (usize, wire::HeaderCondition)| {
        HeaderMatch::try_from(h).map_err(|e| e.within(format!("{field}[{i}]")))
    };
    messages.into_iter().enumerate().map(header).collect()
}

fn port(t: &str) -> Result<u16, &'static str> {
    match t.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err("not a port (1 to 65535)"),
    }
}

fn text(t: &str) -> Result<String, &'static str> {
    if t.is_empty() { Err("empty") } else { Ok(t.to_owned()) }
}

/// RFC 9110 §9.1: a method is a token, and case matters.
fn method(t: &str) -> Result<String, &'static str> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !t.is_empty() && t.bytes().all(token) { Ok(t.to_owned()) } else { Err("not an HTTP method") }
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
        let until_unix_ms = r.until_ms.unwrap_or_default();
        let named =
            wire::Rule { policy: r.policy, index: r.index, mode: mode.into(), until_unix_ms, ..Default::default() };
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
        let headers = |list: Vec<HeaderMatch>| {
            list.into_iter().map(|h| wire::HeaderCondition { name: h.name, any_of: h.any_of }).collect()
        };
        wire::Rule {
            identities: any_of(self.identities),
            trust_domains: any_of(self.trust_domains),
            namespaces: any_of(self.namespaces),
            sites: any_of(self.sites),
            cidrs: any_of(self.cidrs),
            ports: any_of(self.ports),
            hosts: any_of(self.hosts),
            methods: any_of(self.methods),
            paths: any_of(self.paths),
            grpc: any_of(self.grpc),
            headers: headers(self.headers),
            not_identities: any_of(self.not_identities),
            not_trust_domains: any_of(self.not_trust_domains),
            not_namespaces: any_of(self.not_namespaces),
            not_sites: any_of(self.not_sites),
            not_cidrs: any_of(self.not_cidrs),
            not_ports: any_of(self.not_ports),
            not_hosts: any_of(self.not_hosts),
            not_methods: any_of(self.not_methods),
            not_paths: any_of(self.not_paths),
            not_grpc: any_of(self.not_grpc),
            not_headers: headers(self.not_headers),
            ..named
        }
    }
}
