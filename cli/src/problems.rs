//! What the control plane found wrong with the input, printed so that an editor can jump to it.

use std::fmt;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

/// One mistake: `orders.yaml:7:9: ServicePolicy shop/orders: spec.transport: unknown level "Https"`.
#[derive(Debug, Clone)]
pub(crate) struct Problem(wire::Problem);

impl Problem {
    pub(crate) fn json(&self) -> Value {
        let p = &self.0;
        json!({
            "source": p.source,
            "line": p.line,
            "column": p.column,
            "resource": p.resource.as_ref().map(resource_json),
            "field": p.field,
            "reason": p.reason,
        })
    }
}

impl From<wire::Problem> for Problem {
    fn from(problem: wire::Problem) -> Self {
        Self(problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.0;
        f.write_str(&p.source)?;
        // 0 means unknown; a made-up position would send the reader to the wrong line.
        if p.line > 0 {
            write!(f, ":{}", p.line)?;
            if p.column > 0 {
                write!(f, ":{}", p.column)?;
            }
        }
        if !p.source.is_empty() {
            f.write_str(": ")?;
        }
        if let Some(resource) = p.resource.as_ref().filter(|r| !r.kind.is_empty()) {
            write!(f, "{}: ", resource_name(resource))?;
        }
        if !p.field.is_empty() {
            write!(f, "{}: ", p.field)?;
        }
        f.write_str(&p.reason)
    }
}

/// `ServicePolicy shop/orders`, or `Site dc1` where there is no namespace.
pub(crate) fn resource_name(resource: &wire::ResourceRef) -> String {
    match resource.namespace.as_str() {
        "" => format!("{} {}", resource.kind, resource.name),
        namespace => format!("{} {namespace}/{}", resource.kind, resource.name),
    }
}

pub(crate) fn resource_json(resource: &wire::ResourceRef) -> Value {
    json!({ "kind": resource.kind, "namespace": resource.namespace, "name": resource.name })
}

/// What happened to each resource, one line each, for people.
pub(crate) fn changes_text(changes: &[wire::Change], dry_run: bool) -> String {
    let mut text = String::new();
    for change in changes {
        let name = change.resource.as_ref().map(resource_name).unwrap_or_default();
        let dry = if dry_run { " (dry run)" } else { "" };
        text.push_str(&format!("{name} {}{dry}\n", change_word(change.kind())));
    }
    text
}

pub(crate) fn changes_json(changes: &[wire::Change]) -> Vec<Value> {
    let one = |change: &wire::Change| json!({ "resource": change.resource.as_ref().map(resource_json), "change": change_word(change.kind()) });
    changes.iter().map(one).collect()
}

pub(crate) fn change_word(kind: wire::ChangeKind) -> &'static str {
    match kind {
        wire::ChangeKind::Created => "created",
        wire::ChangeKind::Updated => "updated",
        wire::ChangeKind::Unchanged => "unchanged",
        wire::ChangeKind::Deleted => "deleted",
        wire::ChangeKind::Status => "status",
        wire::ChangeKind::Unspecified => "changed in a way this version does not know",
    }
}

#[cfg(test)]
#[path = "problems_test.rs"]
mod problems_test;
