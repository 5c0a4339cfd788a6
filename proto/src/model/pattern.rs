//! The forms in which a rule names identities, hosts, paths and gRPC methods. Each has one reading of its text, which
//! the wire, YAML and explanations share.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use isthmus_certs::{SpiffeId, TrustDomain};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    Exact(SpiffeId),
    /// Without the `*`. Empty: any identity, but one there must be.
    Prefix(String),
    /// `spiffe://*/ns/*/sa/web`: a `*` is one whole name.
    Wildcard(Template),
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
    /// `/orders/{id}`, `/orders/{id}/*`: a `{name}` is one whole segment that is not empty.
    Template(Template),
}

/// Segments between `/`, some of which may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// `None`: any one that is not empty.
    segments: Vec<Option<String>>,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcPattern {
    /// `shop.v1.Orders`: any of its methods.
    Service(String),
    /// `shop.v1.Orders/Get`, as it stands in the path.
    Method(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// Empty: present with any value.
    pub any_of: Vec<String>,
}

impl FromStr for IdentityPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "`*` may stand at the end, or for whole names as in `spiffe://shop.example/ns/*/sa/web`";
        match text.split_once('*') {
            None => SpiffeId::parse(text).map(Self::Exact).map_err(|e| e.to_string()),
            Some((prefix, "")) if prefix.is_empty() || prefix.starts_with("spiffe://") => {
                Ok(Self::Prefix(prefix.to_owned()))
            }
            Some((_, "")) => Err("a prefix starts with `spiffe://`".to_owned()),
            Some(_) => {
                let rest = text.strip_prefix("spiffe://").ok_or("a SPIFFE id starts with `spiffe://`")?;
                let [trust_domain, "ns", namespace, "sa", account] = rest.split('/').collect::<Vec<_>>()[..] else {
                    return Err(FORM.to_owned());
                };
                // Each name is checked as if the others were there.
                let stand_in = |name: &str, other: &str| if name == "*" { other.to_owned() } else { name.to_owned() };
                let domain = TrustDomain::parse(&stand_in(trust_domain, "any.example")).map_err(|e| e.to_string())?;
                SpiffeId::workload(&domain, &stand_in(namespace, "any"), &stand_in(account, "any"))
                    .map_err(|e| format!("{e}; {FORM}"))?;
                Ok(Self::Wildcard(Template::new(text, |segment| segment == "*", false)))
            }
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "{id}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Wildcard(template) => f.write_str(&template.text),
        }
    }
}

impl FromStr for HostPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix('[') {
            let ip = address.strip_suffix(']').and_then(|ip| ip.parse::<Ipv6Addr>().ok());
            return ip.map(|ip| Self::Exact(format!("[{ip}]"))).ok_or("in brackets stands an IPv6 address");
        }
        let host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let lower = text.to_ascii_lowercase();
        if is_numeric(&lower) && lower.parse::<Ipv4Addr>().is_err() {
            return Err("reads as an IPv4 address, and is none");
        }
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

/// Whether clients take a host for an IPv4 address: its last part is a number (WHATWG URL §3.5).
pub fn is_numeric(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    !last.is_empty()
        && (last.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|t| t.bytes().all(|b| b.is_ascii_hexdigit())))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl FromStr for PathPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, prefix) = match text.strip_suffix('*') {
            Some(path) => (path, true),
            None => (text, false),
        };
        let any = prefix && path.is_empty();
        let ambiguous = path.contains("//") || path.split('/').any(|s| s == "." || s == "..");
        if !any && !path.starts_with('/') {
            return Err("a path starts with `/`");
        }
        if path.contains('*') {
            return Err("`*` may stand at the end only; for one segment write `{name}`");
        }
        if path.contains(char::is_control) || path.contains(['%', '\\', '?', '#', ';']) || ambiguous {
            return Err(
                "write it decoded and plain, without `%`, `\\`, `?`, `#`, `;`, `//` and `..`: requests are compared so",
            );
        }
        if !path.contains(['{', '}']) {
            return Ok(if prefix { Self::Prefix(path.to_owned()) } else { Self::Exact(path.to_owned()) });
        }
        if !path.split('/').all(is_plain_or_named) {
            return Err("`{name}` stands for one whole segment, as in `/orders/{id}`");
        }
        if prefix && !path.ends_with('/') {
            return Err("after a template `*` stands for whole segments, as in `/orders/{id}/*`");
        }
        Ok(Self::Template(Template::new(text, |segment| segment.starts_with('{'), prefix)))
    }
}

fn is_plain_or_named(segment: &str) -> bool {
    match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
        None => !segment.contains(['{', '}']),
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Template(template) => f.write_str(&template.text),
        }
    }
}

impl Template {
    /// `open`: the text ends in `/*`, and whatever follows there belongs to it.
    fn new(text: &str, any: impl Fn(&str) -> bool, open: bool) -> Self {
        let closed = if open { text.trim_end_matches("/*") } else { text };
        let segment = |segment: &str| (!any(segment)).then(|| segment.to_owned());
        Self { text: text.to_owned(), segments: closed.split('/').map(segment).collect(), open }
    }

    /// What stands between `/`, the empty first one of a path included; `None`: any one that is not empty.
    pub fn segments(&self) -> &[Option<String>] {
        &self.segments
    }

    /// More may follow, after a `/`.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// `same` says when a segment is a written one.
    pub fn matches(&self, text: &[u8], same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        self.begins(text, same) == Some(self.open)
    }

    /// Whether the text's first segments are those that are written, and then whether more of them follow.
    pub fn begins(&self, text: &[u8], same: impl Fn(&[u8], &[u8]) -> bool) -> Option<bool> {
        let mut parts = text.split(|b| *b == b'/');
        let all = self.segments.iter().all(|segment| match (segment, parts.next()) {
            (_, None) => false,
            (Some(written), Some(part)) => same(written.as_bytes(), part),
            (None, Some(part)) => !part.is_empty(),
        });
        all.then(|| parts.next().is_some())
    }
}

impl FromStr for GrpcPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |t: &str| {
            !t.is_empty()
                && t.split('.').all(|part| {
                    let mut bytes = part.bytes();
                    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
                })
        };
        match text.split_once('/') {
            None if name(text) => Ok(Self::Service(text.to_owned())),
            Some((service, "*")) if name(service) => Ok(Self::Service(service.to_owned())),
            Some((service, method)) if name(service) && name(method) && !method.contains('.') => {
                Ok(Self::Method(text.to_owned()))
            }
            _ => Err("write `package.Service`, or `package.Service/Method`"),
        }
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(text) | Self::Method(text) => f.write_str(text),
        }
    }
}
