//! Whether the refusals of a port are carried out: the most specific Enforcement counts, and a Bypass takes it away for a
//! while. Of two services that declare one port, the stricter counts; a bypass of any of them opens it.

use super::Set;
use crate::validate::resource::{Bypass, Enforcement, Spec};
use isthmus_proto::discovery::v1 as wire;
use std::collections::HashMap;

/// What a proxy has to understand where refusals are carried out though the mesh only observes.
pub(super) const STANDING: &str = "standing/v1";

/// All of a mesh, by namespace.
#[derive(Default)]
pub(super) struct Standings<'a> {
    enforcements: HashMap<&'a str, Vec<&'a Enforcement>>,
    bypasses: HashMap<&'a str, Vec<&'a Bypass>>,
}

impl<'a> Standings<'a> {
    pub(super) fn of(set: &'a Set) -> Self {
        let mut standings = Standings::default();
        for resource in set.of_kind("Enforcement", None).chain(set.of_kind("Bypass", None)) {
            let namespace = resource.key.namespace.as_str();
            match &resource.spec {
                Spec::Enforcement(one) => standings.enforcements.entry(namespace).or_default().push(one),
                Spec::Bypass(one) => standings.bypasses.entry(namespace).or_default().push(one),
                _ => {}
            }
        }
        standings
    }

    /// Of a port that these services (names in the namespace) declare; nothing where nothing is said.
    pub(super) fn of_port(&self, namespace: &str, services: &[&str]) -> Option<wire::Standing> {
        let selects = |selected: &[String]| selected.iter().any(|name| services.contains(&name.as_str()));
        let mine = self.enforcements.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let strictest = |found: &mut dyn Iterator<Item = bool>| found.reduce(|a, b| a || b);
        let by_service = strictest(&mut mine.iter().filter(|e| selects(&e.services)).map(|e| e.enforce));
        let by_namespace = || strictest(&mut mine.iter().filter(|e| e.services.is_empty()).map(|e| e.enforce));
        let enforcement = match by_service.or_else(by_namespace) {
            None => wire::Enforcement::Unspecified,
            Some(false) => wire::Enforcement::Observe,
            Some(true) => wire::Enforcement::Enforce,
        };
        let open = self.bypasses.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let open = open.iter().filter(|bypass| bypass.services.is_empty() || selects(&bypass.services));
        let bypass_until_unix_ms = open.map(|bypass| bypass.until_unix_ms).max().unwrap_or(0);
        let standing = wire::Standing { enforcement: enforcement.into(), bypass_until_unix_ms };
        (standing != wire::Standing::default()).then_some(standing)
    }
}

/// Whether a proxy that cannot read it would be too lenient.
pub(super) fn tightens(standing: Option<&wire::Standing>) -> bool {
    standing.is_some_and(|standing| standing.enforcement() == wire::Enforcement::Enforce)
}
