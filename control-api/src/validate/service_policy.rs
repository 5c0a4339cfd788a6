//! Reads a ServicePolicy. Every field must be known: one that is not understood might be the one that narrows.
//!
//! Patterns are read here with the proxies' own readers, so that each fault is told at the value that has it.

use super::field::{Field, nearest};
use super::node::Value;
use super::ours::{cidr, match_labels, min_tls, not_empty, transport};
use super::resource::*;
use isthmus_certs::TrustDomain;
use isthmus_proto::model::{GrpcPattern, HostPattern, IdentityPattern, PathPattern};
use std::fmt::Display;
use std::net::Ipv6Addr;
use std::str::FromStr;

const FROM: [&str; 6] = ["identities", "trustDomains", "namespaces", "serviceAccounts", "sites", "cidrs"];
const TO: [&str; 6] = ["ports", "hosts", "methods", "paths", "grpc", "headers"];
/// Of RFC 9110, PATCH, and what WebDAV and caches speak: only to guess what was meant.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"];

pub(super) fn read(spec: &Field) -> ServicePolicy {
    spec.only(
        &["services", "workloads", "transport", "minTlsVersion", "mode", "allow", "deny", "probes", "httpsRedirect"],
        &[],
    );
    let workloads = spec.get("workloads").map(|f| match_labels(&f));
    ServicePolicy {
        services: spec.get("services").map(|f| not_empty(&f)).unwrap_or_default(),
        workloads,
        transport: transport(spec),
        min_tls: min_tls(spec),
        audit: audits(spec),
        allow: rules(spec, "allow"),
        deny: rules(spec, "deny"),
        probes: super::probes::read(spec),
        https_redirect: spec.get("httpsRedirect").and_then(|f| super::probes::redirect(&f)),
    }
}

fn audits(parent: &Field) -> bool {
    let mode = parent.get("mode").and_then(|f| f.choice(&[("Enforce", false), ("Audit", true)]));
    mode.unwrap_or(false)
}

fn rules(spec: &Field, name: &str) -> Vec<Rule> {
    let Some(field) = spec.get(name) else { return Vec::new() };
    let items = field.items();
    if field.is_empty_list() {
        field.fault("is an empty list, which could mean nobody or everybody; leave it out, or write one rule");
    }
    items.iter().map(rule).collect()
}

fn rule(field: &Field) -> Rule {
    field.only(&["from", "to", "until", "mode"], &[]);
    let (from, to) = (field.get("from"), field.get("to"));
    for (part, names) in [(&from, FROM), (&to, TO)] {
        if let Some(part) = part {
            let not: Vec<String> = names.iter().map(|name| negated(name)).collect();
            part.only(&names.into_iter().chain(not.iter().map(String::as_str)).collect::<Vec<_>>(), &[]);
            if matches!(&part.node().value, Value::Map(entries) if entries.is_empty()) {
                part.fault("names nothing, and would match everything; leave it out, or write a condition");
            }
        }
    }
    if let Some(from) = &from
        && from.get("identities").is_some()
        && from.get("serviceAccounts").is_some()
    {
        from.fault("has both `identities` and `serviceAccounts`, which name the same thing; write two rules");
    }
    Rule {
        asked: conditions(from.as_ref(), to.as_ref(), str::to_owned),
        not: conditions(from.as_ref(), to.as_ref(), negated),
        until_ms: field.get("until").and_then(|f| time(&f)),
        audit: audits(field),
    }
}

/// `paths` → `notPaths`.
fn negated(name: &str) -> String {
    format!("not{}{}", name[..1].to_ascii_uppercase(), &name[1..])
}

fn conditions(from: Option<&Field>, to: Option<&Field>, name: impl Fn(&str) -> String) -> Conditions {
    let from_list = |field: &str, read: fn(&Field) -> Option<String>| list(from, &name(field), read);
    let to_list = |field: &str, read: fn(&Field) -> Option<String>| list(to, &name(field), read);
    Conditions {
        identities: from_list("identities", pattern::<IdentityPattern>),
        trust_domains: from_list("trustDomains", trust_domain),
        namespaces: from_list("namespaces", namespace),
        service_accounts: from_list("serviceAccounts", service_account),
        sites: from_list("sites", |f| f.word().map(str::to_string)),
        cidrs: list(from, &name("cidrs"), cidr),
        ports: list(to, &name("ports"), |f| f.port()),
        hosts: to_list("hosts", host),
        methods: to_list("methods", method),
        paths: to_list("paths", path),
        grpc: to_list("grpc", pattern::<GrpcPattern>),
        headers: list(to, &name("headers"), header).unwrap_or_default(),
    }
}

/// A condition's values. An empty list would match nobody in an allow and everybody in no sense at all: refused.
pub(super) fn list<T>(parent: Option<&Field>, name: &str, read: impl Fn(&Field) -> Option<T>) -> Option<Vec<T>> {
    let field = parent?.get(name)?;
    let items = field.items();
    if field.is_empty_list() {
        field.fault("is an empty list, which nothing can match; leave it out, or name a value");
    }
    Some(items.iter().filter_map(read).collect())
}

fn pattern<P>(field: &Field) -> Option<String>
where
    P: FromStr + Display,
    P::Err: Display,
{
    let text = field.word()?;
    match text.parse::<P>() {
        Ok(pattern) => Some(pattern.to_string()),
        Err(error) => {
            field.fault(format!("`{text}`: {error}"));
            None
        }
    }
}

/// A name, `*.` before one, or an address. Ports are for `ports`.
pub(super) fn host(field: &Field) -> Option<String> {
    let text = field.word()?;
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        field.fault(format!("`{text}`: a request has such an address in brackets; write `[{ip}]`"));
        return None;
    }
    let after = text.rfind(']').map_or(0, |end| end + 1);
    if let Some((name, port)) = text[after..].split_once(':') {
        let name = format!("{}{name}", &text[..after]);
        field.fault(format!("`{text}`: hosts are compared without a port; write `{name}`, and {port} under `ports`"));
        return None;
    }
    if text.starts_with('[') { pattern::<HostPattern>(field) } else { names_host(field, text.trim_end_matches('.')) }
}

fn names_host(field: &Field, bare: &str) -> Option<String> {
    let lower = bare.to_ascii_lowercase();
    if super::names::is_subdomain(lower.strip_prefix("*.").unwrap_or(&lower)) {
        let wrong = lower.parse::<HostPattern>().err();
        if let Some(why) = wrong {
            field.fault(format!("`{bare}` {why}"));
        }
        return wrong.is_none().then_some(lower);
    }
    field.fault(format!("`{bare}` is not a host name, nor `*.` before one"));
    None
}

/// With the query cut off and an encoding written out where that is plainly what was meant.
fn path(field: &Field) -> Option<String> {
    let text = field.word()?;
    let Err(error) = text.parse::<PathPattern>() else { return Some(text.to_string()) };
    let bare = text.split(['?', '#']).next().unwrap_or_default();
    let rooted = if bare.starts_with('/') || bare == "*" { bare.to_string() } else { format!("/{bare}") };
    let plain = rooted.replace("**", "*").replace("//", "/").replace("/:", "/{").replace("%20", " ");
    let near =
        plain.split('/').map(|s| if s.starts_with('{') && !s.ends_with('}') { format!("{s}}}") } else { s.into() });
    let near = near.collect::<Vec<String>>().join("/");
    let hint = near.parse::<PathPattern>().ok().map(|near| format!("; did you mean `{near}`?"));
    field.fault(format!("`{text}`: {error}{}", hint.unwrap_or_default()));
    None
}

fn trust_domain(field: &Field) -> Option<String> {
    let text = field.word()?;
    if let Err(error) = TrustDomain::parse(text) {
        let bare = text.trim_start_matches("spiffe://").split('/').next().unwrap_or_default();
        let hint = TrustDomain::parse(bare).ok().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        field.fault(format!("`{text}`: {error}{hint}"));
        return None;
    }
    Some(text.to_string())
}

fn namespace(field: &Field) -> Option<String> {
    super::names::check_label(field);
    field.word().map(str::to_string)
}

/// `web`, `other/web` or `*/web`.
fn service_account(field: &Field) -> Option<String> {
    let text = field.word()?;
    let (namespace, name) = text.split_once('/').unwrap_or(("any", text));
    let namespace = if namespace == "*" { "any" } else { namespace };
    let id = format!("spiffe://any.example/ns/{namespace}/sa/{name}");
    if let Err(error) = isthmus_certs::SpiffeId::parse(&id) {
        let lower = text.to_ascii_lowercase();
        let hint = if lower == text { String::new() } else { format!("; did you mean `{lower}`?") };
        field.fault(format!(
            "`{text}` is not a service account; write `web`, `namespace/web`, or `*/web` for any namespace: {error}{hint}"
        ));
        return None;
    }
    Some(text.to_string())
}

fn method(field: &Field) -> Option<String> {
    let text = field.word()?;
    if !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        let hint = nearest(text, &METHODS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        field.fault(format!("`{text}` is not an HTTP method; methods are upper case, as `GET`{hint}"));
        return None;
    }
    Some(text.to_string())
}

fn header(field: &Field) -> Option<HeaderRule> {
    field.only(&["name", "values"], &[]);
    let name = field.need("name")?;
    let text = name.word()?;
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b)) {
        name.fault(format!("`{text}` is not a header name"));
    }
    let lower = text.to_ascii_lowercase();
    let never = match lower.as_str() {
        "host" => Some("write `hosts`"),
        // What is read before rules are asked, and not passed on as it came.
        "connection" | "expect" | "http2-settings" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding"
        | "upgrade" => Some("it is between two ends of a connection, and no part of what is asked for"),
        "x-forwarded-client-cert" => Some("only the mesh says it; write `identities`"),
        _ if lower.starts_with("isthmus-") => Some("the mesh keeps these names to itself"),
        _ => None,
    };
    if let Some(why) = never {
        name.fault(format!("`{text}` never holds: {why}"));
    }
    let values: Option<Vec<String>> = list(Some(field), "values", header_value);
    Some(HeaderRule { name: lower, values: values.unwrap_or_default() })
}

/// As it stands in a request, where space around it is no part of it.
fn header_value(field: &Field) -> Option<String> {
    let text = field.text()?;
    if text.trim() != text || text.contains(|c: char| c.is_control() && c != '\t') {
        field.fault("no header's value has such characters, or space at its ends");
        return None;
    }
    Some(text.to_string())
}

/// A moment, with its offset: a local time would end at another moment on each machine.
fn time(field: &Field) -> Option<i64> {
    let text = field.word()?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if time.as_millisecond() > 0 => Some(time.as_millisecond()),
        _ => {
            field.fault(format!("`{text}` is not a moment; write it as `2026-12-01T18:00:00Z`, with its offset"));
            None
        }
    }
}
