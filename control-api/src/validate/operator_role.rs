//! Readers of OperatorRole, who may do what on the operators' port, and of Tenant. A role that is not read right would give somebody
//! more than was meant, so nothing is guessed.

use super::field::Field;
use super::names::check_label;
use super::resource::{OperatorRole, Role, Tenant};

const ROLES: &[(&str, Role)] =
    &[("viewer", Role::Viewer), ("policy-editor", Role::PolicyEditor), ("admin", Role::Admin)];
/// A group's name comes from a sign-in's claims; Entra ID's are UUIDs.
const LONGEST_GROUP: usize = 256;

pub(super) fn read(spec: &Field) -> OperatorRole {
    spec.only(&["role", "namespaces", "tenants", "operators", "groups"], &[]);
    // A fault refuses the document; this is only what stands there until it does.
    let role = spec.need("role").and_then(|f| f.choice(ROLES)).unwrap_or(Role::Viewer);
    let namespaces = words(spec, "namespaces");
    if let Some(field) = spec.get("namespaces") {
        field.items().iter().for_each(check_label);
        if role == Role::Admin {
            field.fault("an admin is admin of the whole mesh; leave `namespaces` out, or give policy-editor");
        }
    }
    let tenants = words(spec, "tenants");
    if let Some(field) = spec.get("tenants").filter(|_| role == Role::Admin) {
        field.fault("an admin is admin of the whole mesh; leave `tenants` out, or give policy-editor");
    }
    if role == Role::PolicyEditor && namespaces.is_empty() && tenants.is_empty() {
        spec.fault("policy-editor is given by namespace; name them under `namespaces`, or name `tenants`");
    }
    let (operators, groups) = (words(spec, "operators"), words(spec, "groups"));
    if operators.is_empty() && groups.is_empty() {
        spec.fault("names nobody; name `operators` or `groups`");
    }
    if let Some(field) = spec.get("groups")
        && groups.iter().any(|group| group.is_empty() || group.len() > LONGEST_GROUP)
    {
        field.fault(format!("a group's name has 1 to {LONGEST_GROUP} bytes"));
    }
    OperatorRole { role, namespaces, tenants, operators, groups }
}

pub(super) fn tenant(spec: &Field) -> Tenant {
    spec.only(&["namespaces", "shared", "plainCallers"], &[]);
    if let Some(field) = spec.need("namespaces") {
        field.items().iter().for_each(check_label);
    }
    let plain = spec.get("plainCallers").and_then(|f| f.choice(&[("Refuse", false), ("Allow", true)]));
    Tenant {
        namespaces: words(spec, "namespaces"),
        shared: spec.get("shared").and_then(|f| f.flag()).unwrap_or(false),
        plain_callers: plain.unwrap_or(false),
    }
}

fn words(spec: &Field, name: &str) -> Vec<String> {
    let Some(field) = spec.get(name) else { return Vec::new() };
    if field.is_empty_list() {
        field.fault("is an empty list; leave it out");
    }
    field.words().into_iter().map(str::to_string).collect()
}
