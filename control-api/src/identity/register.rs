//! Which certificates are alive, and who holds them. Read from the audit log at start, kept up to date by the issuer.

use crate::audit::{AuditError, AuditLog, Event, What, segments};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Longer than any certificate lives that a rotation or a revocation has to reckon with: operators' 180 days.
const LOOK_BACK_MS: i64 = 181 * 86_400_000;
const CERTIFICATE: &str = "certificate ";

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub who: String,
    /// `<namespace>/<name>`; empty for the control plane and operators.
    pub workload: String,
    pub serial: String,
    /// SHA-256 of its root.
    pub root: String,
    /// SHA-256 of the CA between the two; empty where the record does not say.
    pub issuer: String,
    pub issued_unix_ms: i64,
    pub not_after_unix_s: u64,
    pub proof: String,
    /// The certificate that this one's line began with, and when: an enrolment is an explicit act, a renewal is not.
    pub enrolment: (i64, String),
    /// The one that it was renewed from.
    parent: String,
    /// A newer one of the same holder is in use.
    superseded: bool,
}

#[derive(Debug, Default)]
pub struct Register(Mutex<BTreeMap<String, Holding>>);

impl Register {
    pub(super) fn read(&self, audit: &AuditLog) -> Result<(), AuditError> {
        let since = audit.now_ms() - LOOK_BACK_MS;
        segments::recent(audit.dir(), since, |entry| self.note(entry.at.0, &entry.event))?;
        Ok(())
    }

    /// Takes an issuance in; everything else passes.
    pub fn note(&self, at_ms: i64, event: &Event) {
        let issued = matches!(event.what, What::Enrolled | What::Renewed | What::Issued | What::Found);
        if !issued || event.serial.is_empty() {
            return;
        }
        let mut held = self.held();
        let parent = event.proof.strip_prefix(CERTIFICATE).unwrap_or_default().to_string();
        let workload = match held.get(&parent) {
            Some(parent) if event.workload.is_empty() => parent.workload.clone(),
            _ => event.workload.clone(),
        };
        let enrolment = match (held.get(&parent), event.what) {
            (Some(parent), What::Renewed) => parent.enrolment.clone(),
            _ => (at_ms, event.serial.clone()),
        };
        let same_holder = |other: &Holding| match event.what {
            // Also an answer that was lost: whoever asks again with the old one does not have the other.
            What::Renewed => other.serial == parent || (other.parent == parent && !parent.is_empty()),
            What::Enrolled | What::Found => !workload.is_empty() && other.workload == workload,
            _ => other.who == event.who,
        };
        held.values_mut().filter(|other| same_holder(other)).for_each(|other| other.superseded = true);
        let holding = Holding {
            who: event.who.clone(),
            workload,
            serial: event.serial.clone(),
            root: event.root.clone(),
            issuer: event.issuer.clone(),
            issued_unix_ms: at_ms,
            not_after_unix_s: event.not_after_unix_s,
            proof: event.proof.clone(),
            enrolment,
            parent,
            superseded: false,
        };
        held.insert(event.serial.clone(), holding);
        let now_s = u64::try_from(at_ms / 1000).unwrap_or(0);
        // Now and then, so that it does not grow with the mesh's age.
        if held.len().is_multiple_of(64) {
            held.retain(|_, holding| holding.not_after_unix_s >= now_s);
        }
    }

    /// Those in use and not ended at `now_ms`.
    pub fn live(&self, now_ms: i64) -> Vec<Holding> {
        let now_s = u64::try_from(now_ms / 1000).unwrap_or(0);
        let held = self.held();
        held.values().filter(|h| !h.superseded && h.not_after_unix_s >= now_s).cloned().collect()
    }

    /// The certificate of this serial, if it was issued here and has not been forgotten.
    pub fn of_serial(&self, serial: &str) -> Option<Holding> {
        self.held().get(serial).cloned()
    }

    /// Those that came by renewals, one or several, from a certificate for which `is` holds.
    pub fn descendants(&self, is: impl Fn(&Holding) -> bool) -> Vec<String> {
        let held = self.held();
        let parent = |of: &Holding| held.get(&of.parent);
        let comes_from = |holding: &&Holding| {
            // No longer than there are certificates: a line has no ring in it, but it was read from a file.
            std::iter::successors(parent(holding), |above| parent(above)).take(held.len()).any(&is)
        };
        held.values().filter(comes_from).map(|holding| holding.serial.clone()).collect()
    }

    /// When and with which certificate the line of this one began. Nothing known: older than everything.
    pub fn enrolment_of(&self, serial: &str) -> (i64, String) {
        self.held().get(serial).map_or_else(|| (0, serial.to_string()), |holding| holding.enrolment.clone())
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Holding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "register_test.rs"]
mod register_test;
