//! Where a fault is told: at the document that is to blame, in words that its author may read.

use super::{Proposal, World};
use crate::index::Tenancy;
use crate::validate::cross::Fault;
use crate::validate::cross_addresses;
use crate::validate::set::Set;
use crate::validate::{Parsed, Problem, ResourceRef, locate};

/// Points a fault at the document that is to blame: into the proposal, or at what is stored and would now be wrong.
/// What another tenant has is not named: who has the fault there is told of his own part in it.
pub(super) fn place(fault: &Fault, proposal: &Proposal, world: &World, (tenancy, set): (&Tenancy, &Set)) -> Problem {
    if let Some(parsed) = proposal.puts.iter().find(|parsed| parsed.resource.key == fault.key) {
        return problem(parsed, &fault.field, fault.reason.clone());
    }
    match hidden(fault, proposal, tenancy).then(|| clashing(fault, proposal, set)).flatten() {
        Some((parsed, field)) => problem(parsed, &field, cross_addresses::OTHERS.to_string()),
        None => Problem {
            source: world.meta.get(&fault.key).map(|meta| format!("stored ({})", meta.origin)).unwrap_or_default(),
            resource: fault.key.clone(),
            field: fault.field.clone(),
            reason: fault.reason.clone(),
            ..unplaced()
        },
    }
}

/// Whether nobody who proposes this is told of the resource with the fault.
fn hidden(fault: &Fault, proposal: &Proposal, tenancy: &Tenancy) -> bool {
    let sees = |parsed: &Parsed| {
        let from = &parsed.resource.key.namespace;
        from.is_empty() || tenancy.sees(from, &fault.key.namespace)
    };
    !fault.key.namespace.is_empty() && !proposal.puts.iter().any(sees)
}

/// The proposed resource that claims an address of the one with the fault, and where it does.
fn clashing<'a>(fault: &Fault, proposal: &'a Proposal, set: &Set) -> Option<(&'a Parsed, String)> {
    let theirs = set.get(&fault.key).map(|resource| cross_addresses::addresses(resource).0).unwrap_or_default();
    let clash = |parsed: &'a Parsed| {
        let (own, field) = cross_addresses::addresses(&parsed.resource);
        let at = own.iter().position(|ip| theirs.contains(ip))?;
        Some((parsed, cross_addresses::field_of(field, at)))
    };
    proposal.puts.iter().find_map(clash).or_else(|| Some((proposal.puts.first()?, String::new())))
}

pub(super) fn problem(parsed: &Parsed, field: &str, reason: String) -> Problem {
    let (line, column) = locate(&parsed.node, field);
    let resource = parsed.resource.key.clone();
    Problem { source: parsed.source.clone(), line, column, resource, field: field.to_string(), reason }
}

pub(super) fn unplaced() -> Problem {
    let (source, field, reason) = (String::new(), String::new(), String::new());
    Problem { source, line: 0, column: 0, resource: ResourceRef::default(), field, reason }
}

/// An author is told what is odd about what he wrote, not about the whole mesh each time.
pub(super) fn relevant(warnings: Vec<String>, proposal: &Proposal) -> impl Iterator<Item = String> {
    let names: Vec<String> = proposal.puts.iter().map(|parsed| format!("{}:", parsed.resource.key)).collect();
    warnings.into_iter().filter(move |warning| names.iter().any(|name| warning.starts_with(name)))
}
