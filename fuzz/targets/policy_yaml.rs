//! Policies as people write them: whatever validation takes, a proxy can read, and what is stored reads back.

use std::sync::Arc;

use isthmus_certs::TrustDomain;
use isthmus_control::index::compile_rule;
use isthmus_control::validate::cross::{self, Set};
use isthmus_control::validate::resource::Spec;
use isthmus_control::validate::{self, advice};
use isthmus_proto::model::Rule;

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (parsed, problems) = validate::parse("fuzz", text);
    for problem in &problems {
        assert!(!problem.reason.is_empty(), "a problem without a reason");
    }
    let trust_domain = TrustDomain::parse("shop.example").expect("a trust domain");
    for one in &parsed {
        let again = validate::from_stored(&one.resource.json).expect("what was taken reads back");
        assert_eq!(again, one.resource);
    }
    let set: Set = parsed.into_iter().map(|one| Arc::new(one.resource)).collect();
    let found = cross::check(&set, &trust_domain);
    for resource in set.values() {
        let _ = advice::of(&set, resource, "shop.example", 0);
        let Spec::ServicePolicy(policy) = &resource.spec else { continue };
        if found.faults.iter().any(|fault| fault.key == resource.key) {
            continue;
        }
        for rule in policy.allow.iter().chain(&policy.deny) {
            let rule = Rule::from(compile_rule(resource, policy.audit, 0, rule, &trust_domain));
            assert!(rule.conditions.is_ok(), "validation took what a proxy does not: {:?}", rule.conditions);
        }
    }
}
