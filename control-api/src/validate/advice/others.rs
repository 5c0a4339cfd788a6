//! Rules that another policy of the namespace makes idle: one that applies wherever this one does.

use super::super::cross::Set;
use super::super::resource::{Resource, Rule, ServicePolicy, Spec};
use super::{Advice, covers};

/// Policies of one namespace beyond which nobody is compared with all others: a large apply would take minutes to warn.
const MOST: usize = 500;

pub(super) fn tell(advice: &mut Advice, set: &Set, resource: &Resource, policy: &ServicePolicy) {
    let of_namespace: Vec<_> = set.of_kind("ServicePolicy", Some(&resource.key.namespace)).take(MOST + 1).collect();
    if of_namespace.len() > MOST {
        return;
    }
    for other in of_namespace.iter().filter(|other| other.key != resource.key) {
        let Spec::ServicePolicy(wide) = &other.spec else { continue };
        if wide.audit != policy.audit || !applies_wherever(wide, policy) {
            continue;
        }
        let named = format!("ServicePolicy {}", other.key.qualified());
        // Of two that say the same, one must be left.
        let first = other.key < resource.key;
        let idle = |mine: &Rule, theirs: &[Rule]| {
            theirs.iter().position(|theirs| covers(theirs, mine) && (first || !covers(mine, theirs)))
        };
        for (i, rule) in policy.allow.iter().enumerate() {
            if let Some(j) = wide.deny.iter().position(|deny| covers(deny, rule)) {
                advice.say(
                    format!("spec.allow[{i}]"),
                    format!("never allows: spec.deny[{j}] of {named} refuses all that it matches"),
                );
            } else if let Some(j) = idle(rule, &wide.allow) {
                advice.say(
                    format!("spec.allow[{i}]"),
                    format!("changes nothing: spec.allow[{j}] of {named} matches all that it does"),
                );
            }
        }
        for (i, rule) in policy.deny.iter().enumerate() {
            if let Some(j) = idle(rule, &wide.deny) {
                advice.say(
                    format!("spec.deny[{i}]"),
                    format!("changes nothing: spec.deny[{j}] of {named} matches all that it does"),
                );
            }
        }
    }
}

/// Whether `wide` selects whatever `narrow` does, as far as this can be read from them. Both are of one namespace.
fn applies_wherever(wide: &ServicePolicy, narrow: &ServicePolicy) -> bool {
    let services = wide.services.is_empty()
        || !narrow.services.is_empty() && narrow.services.iter().all(|name| wide.services.contains(name));
    let labels = match (&wide.workloads, &narrow.workloads) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide.iter().all(|(name, value)| narrow.get(name) == Some(value)),
    };
    services && labels
}
