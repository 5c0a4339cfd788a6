//! What may leave in a support bundle. Structure always; a text only in a field that is known to be harmless: a field that
//! nobody thought of is blanked out, and not the other way round. Over everything goes a last sieve for what looks like a
//! key or a token, wherever it came from.

use serde_json::{Map, Value};

const BLANK: &str = "[redacted]";

/// Fields of resources whose texts are shown: names, places, and words from closed lists.
const HARMLESS: &[&str] = &[
    "action",
    "addresses",
    "addressType",
    "allowedPorts",
    "apiVersion",
    "appProtocol",
    "cidrs",
    "clusterIP",
    "clusterIPs",
    "connect",
    "cryptoProfile",
    "default",
    "dnsNames",
    "dnsSuffixes",
    "egressTransport",
    "enforcement",
    "externalName",
    "groups",
    "headerNames",
    "hosts",
    "identities",
    "ip",
    "keep",
    "kind",
    "lastTransitionTime",
    "leafLifetime",
    "maxStreamAge",
    "message",
    "methods",
    "minTlsVersion",
    "mode",
    "name",
    "namespace",
    "namespaces",
    "notHosts",
    "notMethods",
    "notNamespaces",
    "notSites",
    "operators",
    "protocol",
    "proxyProtocol",
    "ranges",
    "reason",
    "request",
    "resolvers",
    "resourceVersion",
    "role",
    "serverName",
    "serviceAccount",
    "serviceAccounts",
    "services",
    "site",
    "sites",
    "sourceAddress",
    "status",
    "targetPort",
    "transport",
    "trustDomain",
    "trustDomains",
    "type",
    "until",
    "vipRanges",
];

/// Fields of control.yaml and proxy.yaml whose texts are shown. None of them is a URL: those may carry a password.
const PLAIN: &[&str] = &[
    "address",
    "addresses",
    "advertise",
    "afterStart",
    "age",
    "audience",
    "backend",
    "caFile",
    "controlPlane",
    "format",
    "grace",
    "inbound",
    "level",
    "mesh",
    "metrics",
    "mode",
    "module",
    "name",
    "namespaces",
    "operators",
    "passphraseFile",
    "pinFile",
    "proxies",
    "resources",
    "roots",
    "site",
    "socket",
    "stateDir",
    "tokenFile",
    "trustDomain",
    "udp",
    "workload",
];

/// A resource's document.
pub(super) fn document(value: &Value) -> Value {
    keep(value, HARMLESS, false)
}

/// A configuration file.
pub(super) fn configuration(value: &Value) -> Value {
    keep(value, PLAIN, false)
}

fn keep(value: &Value, harmless: &[&str], shown: bool) -> Value {
    match value {
        Value::String(_) if !shown => Value::String(BLANK.to_owned()),
        Value::String(text) => Value::String(self::text(text)),
        Value::Array(items) => Value::Array(items.iter().map(|item| keep(item, harmless, shown)).collect()),
        Value::Object(fields) => {
            // A label's or an annotation's value may be anything.
            let one = |(name, value): (&String, &Value)| {
                (name.clone(), keep(value, harmless, harmless.contains(&name.as_str())))
            };
            let own =
                fields.iter().filter(|(name, _)| !matches!(name.as_str(), "annotations" | "labels" | "matchLabels"));
            let mut kept: Map<String, Value> = own.map(one).collect();
            for free in ["annotations", "labels", "matchLabels"] {
                if let Some(value) = fields.get(free) {
                    kept.insert(free.to_owned(), keep(value, &[], false));
                }
            }
            Value::Object(kept)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// A text without what looks like a secret: PEM blocks, our tokens, JWTs, passwords in URLs, what follows `Bearer` or
/// stands after `password=` and the like.
pub(super) fn text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.split_inclusive('\n') {
        // JSON writes a PEM in one line, with its line ends escaped.
        if !in_pem && line.contains("-----BEGIN ") {
            in_pem = !line.contains("-----END ");
            let begin = line.find("-----BEGIN ").unwrap_or(0);
            let end =
                line.rfind("-----END ").and_then(|end| line[end + 9..].find("-----").map(|rest| end + 9 + rest + 5));
            clean.push_str(&words(&line[..begin]));
            clean.push_str(BLANK);
            clean.push_str(&words(&line[end.unwrap_or(line.len())..]));
            if end.is_none() {
                clean.push('\n');
            }
        } else if in_pem {
            in_pem = !line.contains("-----END ");
        } else {
            clean.push_str(&words(line));
        }
    }
    clean
}

/// Word by word, as the characters between them are no part of any secret.
fn words(line: &str) -> String {
    let is_between = |c: char| {
        c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '(' | ')' | '{' | '}' | '[' | ']' | '<' | '>')
    };
    let mut clean = String::with_capacity(line.len());
    let mut after_scheme = false;
    for piece in line.split_inclusive(is_between) {
        let end = piece.char_indices().next_back().filter(|(_, c)| is_between(*c)).map_or(piece.len(), |(at, _)| at);
        let (word, between) = piece.split_at(end);
        let lower = word.to_ascii_lowercase();
        if after_scheme && !word.is_empty() || is_secret(word) {
            clean.push_str(BLANK);
        } else {
            clean.push_str(&without_password(word));
        }
        if !word.is_empty() {
            let names = ["bearer", "basic", "password:", "passphrase:", "secret:", "authorization:"];
            after_scheme = names.contains(&lower.as_str());
        }
        clean.push_str(between);
    }
    clean
}

fn is_secret(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let named = ["password=", "passwd=", "passphrase=", "secret=", "token=", "apikey=", "api_key=", "pin="];
    let jwt = word.starts_with("eyJ") && word.bytes().filter(|b| *b == b'.').count() == 2;
    word.contains("isthmus1.") || word.contains("isthmus-robot") || jwt || named.iter().any(|name| lower.contains(name))
}

/// `https://user:password@host` → `https://[redacted]@host`.
fn without_password(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://{BLANK}{}", &rest[at..]),
        None => word.to_owned(),
    }
}

/// A line of the audit log: who changed which field of what, and not from what to what.
pub(super) fn audit_line(line: &str) -> String {
    let Ok(mut line) = serde_json::from_str::<Value>(line) else { return BLANK.to_owned() };
    let changes = line.get_mut("changes").and_then(Value::as_array_mut).into_iter().flatten();
    let fields = changes.filter_map(|change| change.get_mut("fields")?.as_array_mut()).flatten();
    for value in fields.filter_map(Value::as_object_mut).flatten() {
        if value.0 == "from" || value.0 == "to" {
            *value.1 = Value::String(BLANK.to_owned());
        }
    }
    line.to_string()
}

#[cfg(test)]
#[path = "redact_test.rs"]
mod redact_test;
