//! Names: DNS labels as Kubernetes has them, and host patterns.

use super::field::Field;

/// RFC 1123 label: at most 63 of a-z, 0-9 and `-`, neither first nor last `-`.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 in all.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

pub(super) fn check_label(field: &Field) {
    if let Some(text) = field.word()
        && !is_label(text)
    {
        field.fault(format!("`{text}` is not a name: at most 63 of a-z, 0-9 and `-`, not starting or ending with `-`"));
    }
}

/// A host name, or `*.` before one.
pub(super) fn check_host(field: &Field) {
    let Some(text) = field.word() else { return };
    let lower = text.to_ascii_lowercase();
    if !is_subdomain(lower.strip_prefix("*.").unwrap_or(&lower).trim_matches('.')) {
        field.fault(format!("`{text}` is not a host name, nor `*.` before one"));
    }
}

/// `not_trust_domains[1]`, as the wire has it, as it is written in YAML.
pub(super) fn camel_case(field: &str) -> String {
    let mut parts = field.split('_');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let mut letters = part.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}
