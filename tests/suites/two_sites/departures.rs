//! What left the mesh: recorded, replayed under a policy that is not in force yet, explained by id; and the YAML that is
//! given then lets it pass.

use std::time::Duration;

use isthmus_world::mesh::Mesh;
use serde_json::Value;

use crate::decisions::{REPORTED, asked, ends};
use crate::egress::{Outside, passes, policy};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[("what_left_the_mesh_is_recorded_replayed_and_explained", recorded)];

const SOON: Duration = Duration::from_secs(20);

fn outcome(told: &Value, callee: &str) -> Value {
    let all = told["outcomes"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|o| o["outOfMesh"] == true && o["callee"] == callee).unwrap_or_default()
}

fn recorded(mesh: &mut Mesh) -> Result<(), String> {
    let _outside = Outside::start(mesh)?;
    let replay = ["policy", "replay", "-f", "-", "--target", "shop", "--last", "1h", "--json"];
    let only_api = policy("  allow:\n    - { hosts: [api.example] }\n");
    // Nothing restricts it: it passes unread, and of the name nobody can tell.
    passes(mesh, &["https://api.example/"])?;
    let told = mesh.until(REPORTED, "the connection is on record", |mesh| {
        let (_, told) = asked(mesh, &replay, &only_api)?;
        Ok((outcome(&told, "203.0.113.10:443") != Value::Null).then_some(told))
    })?;
    let unread = outcome(&told, "203.0.113.10:443");
    require(unread["verdict"] == "cannot tell" && unread["missing"][0] == "host", || told.to_string())?;
    require(unread["transport"] == "not read", || told.to_string())?;
    let (_, told) = asked(mesh, &replay, &policy("  allow:\n    - { cidrs: [203.0.113.0/24] }\n"))?;
    require(outcome(&told, "203.0.113.10:443")["verdict"] == "allowed", || told.to_string())?;

    // In Audit the names are read, and nobody is refused.
    mesh.apply(&only_api.replace("spec:\n", "spec:\n  mode: Audit\n"))?;
    passes(mesh, &["https://api.example/"])?;
    passes(mesh, &["http://other.example/"])?;
    let told = mesh.until(REPORTED, "both names are on record", |mesh| {
        let (_, told) = asked(mesh, &replay, &only_api)?;
        let both = ["api.example:443", "other.example:80"].iter().all(|place| outcome(&told, place) != Value::Null);
        Ok(both.then_some(told))
    })?;
    let (api, other) = (outcome(&told, "api.example:443"), outcome(&told, "other.example:80"));
    require(api["verdict"] == "allowed" && api["caller"] == "shop/web", || told.to_string())?;
    require(other["verdict"] == "refused" && other["transport"] == "plaintext", || told.to_string())?;
    require(told["summary"].as_str().is_some_and(|s| s.contains("out of the mesh")), || told.to_string())?;
    // Apply says whom it cuts off; report and edges show what leaves in plaintext.
    let (_, dry) = asked(mesh, &["apply", "-f", "-", "--dry-run", "--json"], &only_api)?;
    require(dry["warnings"].to_string().contains("shop/web → other.example:80"), || dry.to_string())?;
    let report = mesh.isthmus(&["policy", "report", "shop"])?;
    require(report.contains("other.example:80 (outside)"), || report.clone())?;
    let edges = mesh.isthmus_json(&["edges", "--json"])?;
    let all = edges["edges"].as_array().cloned().unwrap_or_default();
    let edge = all.iter().find(|edge| edge["callee"] == "api.example:443").cloned().unwrap_or_default();
    require(edge["outOfMesh"] == true && edge["fromSite"] == "azure-eastus", || edges.to_string())?;

    // Enforced, refused, explained; and what explain says lets it pass, and nobody else.
    mesh.apply(&only_api)?;
    passes(mesh, &["https://api.example/"])?;
    let answer = mesh.get("web", "http://other.example/")?;
    require(answer.status == 403, || format!("{answer:?}"))?;
    let id = answer.header("isthmus-decision").unwrap_or_default().to_owned();
    let (code, told) = mesh.until(REPORTED, "the control plane has the refusal", |mesh| {
        let (code, told) = asked(mesh, &["explain", &id, "--json"], "")?;
        Ok((told["decision"] == id.as_str()).then_some((code, told)))
    })?;
    ends(code, 4, &told)?;
    require(told["policy"] == "shop/out" && told["destination"] == "other.example:80 at 203.0.113.20", || {
        told.to_string()
    })?;
    let yaml = told["wouldAllow"].as_str().unwrap_or_default().to_owned();
    require(yaml.contains("matchLabels") && yaml.contains("other.example"), || yaml.clone())?;
    mesh.apply(&yaml)?;
    mesh.until(SOON, "the YAML lets it pass", |mesh| {
        Ok((mesh.get("web", "http://other.example/")?.status == 200).then_some(()))
    })?;
    passes(mesh, &["https://api.example/"])?;
    let elsewhere = mesh.get("web", "http://files.cdn.example/")?;
    require(elsewhere.status == 403, || format!("the YAML allows more than was asked: {elsewhere:?}"))
}
