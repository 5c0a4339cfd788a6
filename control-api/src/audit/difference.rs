//! What a change of resources says in the log: each field that differs, as it was and as it is. Pure.
//!
//! A line of the log is bounded, so a large change takes several lines, and a single value that is too large for one is
//! named by its length and hash: what it was can then still be proved, though not read.

use super::chain::hex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Of one value, as JSON.
const LONGEST_VALUE: usize = 8 << 10;
/// Of the changes of one line, as JSON. A line has at most 64 KiB.
const LONGEST_LINE: usize = 32 << 10;

/// One resource, or a part of what changed in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// `ServicePolicy shop/orders`.
    pub resource: String,
    /// `created`, `updated`, `deleted`.
    pub how: String,
    pub fields: Vec<FieldChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// `spec.allow[0].from`; empty: the whole.
    pub path: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub from: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub to: Value,
}

/// One resource's change; none where nothing differs.
pub fn changed(resource: &str, before: Option<&Value>, after: Option<&Value>) -> Option<Changed> {
    let how = match (before, after) {
        (None, Some(_)) => "created",
        (Some(_), None) => "deleted",
        _ => "updated",
    };
    let mut fields = Vec::new();
    compare("", before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null), &mut fields);
    (!fields.is_empty()).then(|| Changed { resource: resource.to_string(), how: how.to_string(), fields })
}

/// Packed into as many lines as it takes, each small enough.
pub fn lines(changes: impl IntoIterator<Item = Changed>) -> Vec<Vec<Changed>> {
    let (mut lines, mut line, mut length) = (Vec::new(), Vec::<Changed>::new(), 0);
    for change in changes {
        for field in change.fields {
            let size = field.path.len() + field.from.to_string().len() + field.to.to_string().len() + 64;
            let named = change.resource.len() + 64;
            if length > 0 && length + size + named > LONGEST_LINE {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            match line.last_mut().filter(|last| last.resource == change.resource) {
                Some(last) => last.fields.push(field),
                None => {
                    length += named;
                    let (resource, how) = (change.resource.clone(), change.how.clone());
                    line.push(Changed { resource, how, fields: vec![field] });
                }
            }
            length += size;
        }
    }
    lines.extend((!line.is_empty()).then_some(line));
    lines
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<FieldChange>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let dot = if path.is_empty() { "" } else { "." };
                let value = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                compare(&format!("{path}{dot}{name}"), &value(a), &value(b), fields);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), a, b, fields);
            }
        }
        _ => fields.push(FieldChange { path: path.to_string(), from: bounded(before), to: bounded(after) }),
    }
}

fn bounded(value: &Value) -> Value {
    let text = value.to_string();
    match text.len() {
        0..=LONGEST_VALUE => value.clone(),
        bytes => json!({ "bytes": bytes, "sha256": hex(&<[u8; 32]>::from(Sha256::digest(text.as_bytes()))) }),
    }
}

#[cfg(test)]
#[path = "difference_test.rs"]
mod difference_test;
