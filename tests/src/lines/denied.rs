//! Line 3: a caller that is not on the allow-list gets one word and an id; the operator gets the policy and the YAML.

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Answer, Mesh, ORDERS_URL, resources};

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let refusal = mesh.refusal("orders", "not-allowed")?;
    let answer = mesh.get("batch", ORDERS_URL)?;
    let id = one_word_and_an_id(&answer, "not-allowed")?;
    refusal.happened(mesh)?;
    let decision = mesh.decision("orders", &id)?;
    let policy = decision["policy"].as_str().unwrap_or_default().to_owned();
    require(policy == "shop/orders", || {
        format!("decision {id} names policy {policy:?} and not shop/orders: {decision}")
    })?;
    let yaml = decision["wouldAllow"].as_str().unwrap_or_default().to_owned();
    require(yaml.contains("batch"), || format!("decision {id} has no YAML that would allow batch: {decision}"))?;

    // The control arm: the same bytes, with that one rule relaxed.
    let accepts = mesh.orders_reached()?;
    mesh.apply(&resources::batch_allowed())?;
    let relaxed = mesh.get("batch", ORDERS_URL);
    mesh.apply(resources::policy("orders"))?;
    let relaxed = relaxed?;
    require(relaxed.status == 200, || format!("with batch allowed it still got {}: {}", relaxed.status, relaxed.body))?;
    let reached = mesh.requests_reached(accepts)?;
    Ok(Shown {
        summary: format!(
            "403 not-allowed, decision {id}, by policy {policy}; with batch on the list: {}",
            relaxed.status
        ),
        more: std::iter::once("what would allow it:".to_owned())
            .chain(yaml.lines().map(|l| format!("  {l}")))
            .collect(),
        facts: json!({ "status": answer.status, "reason": "not-allowed", "decision": id, "policy": policy, "wouldAllow": yaml,
                       "controlArm": { "status": relaxed.status, "reachedApp": reached } }),
    })
}

/// What a refused caller may learn: a word and an id. Returns the id.
pub(super) fn one_word_and_an_id(answer: &Answer, word: &str) -> Result<String, String> {
    require(answer.status == 403, || format!("expected 403 {word}, got {}: {}", answer.status, answer.body))?;
    let denied = answer.header("isthmus-denied").unwrap_or_default();
    require(denied == word, || format!("isthmus-denied is {denied:?} and not {word:?}"))?;
    require(answer.body.trim() == word, || format!("the body tells more than one word: {:?}", answer.body))?;
    let id = answer.header("isthmus-decision").unwrap_or_default();
    require(!id.is_empty(), || "the answer has no isthmus-decision".to_owned())?;
    Ok(id.to_owned())
}
