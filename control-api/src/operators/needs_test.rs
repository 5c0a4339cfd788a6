use super::needs::{NEEDS, of};
use super::rights::{Rights, Role};
use super::{Scope, Who};
use crate::ledger::World;
use crate::validate::ResourceRef;
use prost::Message;
use std::collections::BTreeSet;

/// Every call that the operators' port answers, as the protos say.
fn calls() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(isthmus_proto::DESCRIPTORS).unwrap();
    let mut calls = BTreeSet::new();
    for file in files.file.iter().filter(|file| file.package() == "isthmus.admin.v1") {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            calls.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    calls
}

#[test]
fn every_call_has_a_role_and_no_role_is_for_a_call_that_does_not_exist() {
    let known: BTreeSet<String> = NEEDS.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(known.len(), NEEDS.len(), "no call twice");
    let ours: BTreeSet<String> = known.into_iter().filter(|path| path.starts_with("/isthmus.")).collect();
    assert_eq!(calls(), ours, "left: what the protos define; right: operators/needs.rs");
    assert!(calls().len() > 20);
}

#[test]
fn what_the_table_does_not_know_is_nobodys() {
    for path in
        ["/isthmus.admin.v1.Admin/Format", "/isthmus.admin.v1.Admin/Get/", "/Get", "", "/isthmus.admin.v1.admin/Get"]
    {
        assert_eq!(of(path), None, "{path}");
    }
}

#[test]
fn every_kind_says_who_changes_it() {
    // A kind that is new is an admin's until somebody decides otherwise, here and in `rights`.
    let editors =
        ["ServicePolicy", "TrafficPolicy", "EgressPolicy", "AuthenticationPolicy", "Enforcement", "Bypass", "Service"];
    let scope = Scope { role: Role::PolicyEditor, namespaces: vec!["shop".to_string()] };
    let who = Who { name: "ci".to_string(), groups: BTreeSet::new(), robot: Some(scope) };
    let rights = Rights::of(&World::default(), &who);
    for kind in crate::validate::kinds() {
        let (mine, other) = (ResourceRef::new(kind, "shop", "x"), ResourceRef::new(kind, "hr", "x"));
        let edited = editors.contains(&kind) || kind.starts_with("Endpoint") || kind.ends_with("Route");
        assert_eq!(rights.changes(&mine), edited, "{kind}");
        assert!(!rights.changes(&other), "{kind} of another namespace");
        assert!(!rights.changes(&ResourceRef::new(kind, "", "x")), "{kind} of the whole mesh");
    }
}
