//! What the mesh decided, told to the operator: real traffic, and what `explain`, `policy` and break-glass make of it.

use std::time::Duration;

use isthmus_world::mesh::{Mesh, ORDERS_URL, resources};
use serde_json::Value;

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_refusal_is_explained_by_its_id_and_the_yaml_it_gives_allows_it", explained),
    ("what_was_seen_is_reported_replayed_and_suggested", recorded),
    ("one_step_from_observe_to_enforce_and_back", enforced),
    ("no_namespace_lowers_the_floor_of_the_mesh_and_the_conflict_is_named", floor),
    ("the_suggested_list_is_replayed_as_if_it_were_enforced_and_fits", suggested),
    ("a_bypass_opens_is_shown_and_ends_though_the_control_plane_is_gone", bypassed),
    ("an_apply_that_nobody_confirms_is_taken_back_by_a_restarted_control_plane", unconfirmed),
];

/// Reports come every ten seconds.
pub(crate) const REPORTED: Duration = Duration::from_secs(40);
const STRAIGHT: &str = "http://10.20.1.10:8080/";

/// A command whose answer is one JSON object.
pub(crate) fn asked(mesh: &Mesh, args: &[&str], input: &str) -> Result<(i32, Value), String> {
    let (code, text) = mesh.isthmus_with(args, input)?;
    let value = serde_json::from_str(&text).map_err(|e| format!("isthmus {}: {e}: {code} {text}", args.join(" ")))?;
    Ok((code, value))
}

pub(crate) fn ends(code: i32, expected: i32, value: &Value) -> Result<(), String> {
    require(code == expected, || format!("exit status {code} and not {expected}: {value}"))
}

fn explained(mesh: &mut Mesh) -> Result<(), String> {
    let answer = mesh.get("batch", &format!("{ORDERS_URL}secret/1"))?;
    require(answer.status == 403, || format!("{answer:?}"))?;
    let id = answer.header("isthmus-decision").unwrap_or_default().to_owned();
    let (code, told) = mesh.until(REPORTED, "the control plane has the refusal", |mesh| {
        let (code, told) = asked(mesh, &["explain", &id, "--json"], "")?;
        Ok((told["decision"] == id.as_str()).then_some((code, told)))
    })?;
    ends(code, 4, &told)?;
    require(told["policy"] == "shop/orders" && told["reason"] == "not-allowed" && told["path"] == "/secret/1", || {
        told.to_string()
    })?;
    let yaml = told["wouldAllow"].as_str().unwrap_or_default().to_owned();
    require(!answer.body.contains("orders") && !answer.body.contains("batch"), || format!("leaks: {}", answer.body))?;
    // The same question before anybody calls, and its control arm.
    let question = |from: &'static str| {
        ["explain", "--from", from, "--to", "orders", "--method", "GET", "--path", "/secret/1", "--json"]
    };
    let (code, asked_first) = asked(mesh, &question("batch"), "")?;
    ends(code, 4, &asked_first)?;
    require(asked_first["wouldAllow"] == yaml.as_str(), || format!("{asked_first} is not {yaml}"))?;
    let (code, web) = asked(mesh, &question("web"), "")?;
    ends(code, 0, &web)?;
    mesh.apply(&yaml)?;
    let (code, allowed) = asked(mesh, &question("batch"), "")?;
    ends(code, 0, &allowed)?;
    let answer = mesh.get("batch", &format!("{ORDERS_URL}secret/1"))?;
    require(answer.status != 403, || format!("the YAML does not allow it: {answer:?}"))?;
    let answer = mesh.get("batch", &format!("{ORDERS_URL}secret/2"))?;
    require(answer.status == 403, || format!("the YAML allows more than was asked: {answer:?}"))
}

#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn recorded(mesh: &mut Mesh) -> Result<(), String> {
    for path in ["", "orders/17", "orders/18"] {
        mesh.get("web", &format!("{ORDERS_URL}{path}"))?;
    }
    require(mesh.get("batch", ORDERS_URL)?.status == 403, || "batch is let in".to_owned())?;
    require(mesh.get("stranger", STRAIGHT)?.status == 403, || "plaintext is let in".to_owned())?;
    let report = ["policy", "report", "shop/orders", "--all", "--json"];
    let told = mesh.until(REPORTED, "all callers are in the report", |mesh| {
        let (_, told) = asked(mesh, &report, "")?;
        let callers = told["callers"].as_array().map_or(0, Vec::len);
        Ok((callers >= 3).then_some(told))
    })?;
    let line = |caller: &str| {
        told["callers"]
            .as_array()
            .and_then(|all| all.iter().find(|line| line["caller"] == caller))
            .cloned()
            .unwrap_or_default()
    };
    require(line("shop/web")["transport"] == "mesh" && line("shop/web")["count"] == 3, || told.to_string())?;
    require(line("shop/batch")["refused"] == 1, || told.to_string())?;
    require(line("10.20.1.99")["transport"] == "plaintext" && line("10.20.1.99")["refused"] == 1, || told.to_string())?;

    // A policy that would cut web off from its ids, and one of which nobody can tell.
    let policy = |paths: &str| {
        resources::policy("orders")
            .replace("serviceAccounts: [web]", &format!("serviceAccounts: [web]\n      to:\n        paths: [{paths}]"))
    };
    let replay = ["policy", "replay", "-f", "-", "--target", "shop/orders", "--last", "1h", "--json"];
    let (code, told) = asked(mesh, &replay, &policy("/"))?;
    ends(code, 4, &told)?;
    let of = |told: &Value, request: &str| {
        let all = told["outcomes"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|o| o["caller"] == "shop/web" && o["request"] == request).unwrap_or_default()
    };
    require(of(&told, "GET /")["verdict"] == "allowed", || told.to_string())?;
    require(of(&told, "GET /orders/{id}")["verdict"] == "refused", || told.to_string())?;
    let (_, told) = asked(mesh, &replay, &policy("/, /orders/17"))?;
    let unclear = of(&told, "GET /orders/{id}");
    require(unclear["verdict"] == "cannot tell" && unclear["missing"][0] == "path", || told.to_string())?;
    let (_, told) = asked(mesh, &replay, &policy("/, \"/orders/{id}\""))?;
    require(of(&told, "GET /orders/{id}")["verdict"] == "allowed", || told.to_string())?;
    require(!told["gaps"].as_array().is_none_or(Vec::is_empty), || "no word on window and gaps".to_owned())?;
    let header = policy("/, \"/orders/{id}\"")
        .replace("        paths:", "        headers: [{ name: x-team, values: [blue] }]\n        paths:");
    let (code, told) = asked(mesh, &replay, &header)?;
    ends(code, 4, &told)?;
    let unclear = of(&told, "GET /");
    require(unclear["verdict"] == "cannot tell" && unclear["missing"][0] == "header x-team", || told.to_string())?;
    // Who talks to whom, over which link.
    let (_, edges) = asked(mesh, &["edges", "--json"], "")?;
    let edge = |caller: &str| {
        let all = edges["edges"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .find(|edge| edge["caller"] == caller && edge["callee"] == "shop/orders:8080")
            .unwrap_or_default()
    };
    let web = edge("shop/web");
    require(web["mutualTls"] == true && web["links"][0] == "expressroute" && web["count"] == 3, || edges.to_string())?;
    require(edge("10.20.1.99")["secured"] == "plaintext" && edge("10.20.1.99")["refused"] == 1, || edges.to_string())?;
    // Apply says it as well, before it is too late.
    let (_, dry) = asked(mesh, &["apply", "-f", "-", "--dry-run", "--json"], &policy("/"))?;
    require(dry["warnings"].to_string().contains("shop/web → shop/orders"), || dry.to_string())?;
    let (code, lint) = asked(mesh, &["lint", "-", "--live", "--strict", "--json"], &policy("/"))?;
    ends(code, 1, &lint)?;
    require(lint["cutOff"].to_string().contains("shop/web → shop/orders"), || lint.to_string())?;

    let (code, told) = asked(mesh, &["policy", "suggest", "shop/orders", "--json"], "")?;
    ends(code, 0, &told)?;
    let yaml = told["yaml"].as_str().unwrap_or_default();
    let fits =
        yaml.contains("sa/web") && yaml.contains("/orders/{id}") && !yaml.contains("batch") && !yaml.contains('*');
    require(fits && yaml.contains("mode: Audit"), || yaml.to_owned())?;
    mesh.apply(yaml).map(|_| ())
}

fn enforced(mesh: &mut Mesh) -> Result<(), String> {
    mesh.isthmus(&["policy", "enforce", "shop/orders", "--observe", "--yes"])?;
    mesh.until(REPORTED, "batch passes where it is only observed", |mesh| {
        Ok((mesh.get("batch", ORDERS_URL)?.status == 200).then_some(()))
    })?;
    let step = ["policy", "enforce", "shop/orders", "--yes", "--json"];
    // Nothing is changed while somebody would break.
    let told = mesh.until(REPORTED, "the replay knows batch", |mesh| {
        let (code, told) = asked(mesh, &["policy", "replay", "--target", "shop/orders", "--json"], "")?;
        Ok((code == 4 && told["summary"].as_str().is_some_and(|s| s.contains("1 would break"))).then_some(told))
    })?;
    require(told["refused"].as_u64() >= Some(1), || told.to_string())?;
    let (code, told) = asked(mesh, &step, "")?;
    ends(code, 4, &told)?;
    require(mesh.get("batch", ORDERS_URL)?.status == 200, || "it was enforced all the same".to_owned())?;
    let (code, told) = asked(mesh, &[&step[..], &["--accept-breakage"]].concat(), "")?;
    ends(code, 0, &told)?;
    let told = mesh.isthmus_json(&["audit", "show", "--what", "enforced", "--what", "observed", "--json"])?;
    let steps: Vec<_> = told["lines"].as_array().cloned().unwrap_or_default();
    let of_orders: Vec<_> = steps.iter().filter(|step| step["workload"] == "shop/orders").collect();
    let words: Vec<_> = of_orders.iter().map(|step| (step["what"].as_str(), step["operator"].as_str())).collect();
    require(words == [(Some("observed"), Some("admin")), (Some("enforced"), Some("admin"))], || told.to_string())?;
    mesh.until(REPORTED, "batch is refused", |mesh| Ok((mesh.get("batch", ORDERS_URL)?.status == 403).then_some(())))?;
    require(mesh.get("web", ORDERS_URL)?.status == 200, || "web is refused too".to_owned())
}

fn bypassed(mesh: &mut Mesh) -> Result<(), String> {
    let passes = |mesh: &Mesh, status: u16| Ok((mesh.get("batch", ORDERS_URL)?.status == status).then_some(()));
    mesh.isthmus(&["bypass", "shop/orders", "--for", "1h", "--reason", "incident 4711"])?;
    mesh.until(REPORTED, "batch passes", |mesh| passes(mesh, 200))?;
    let question = ["explain", "--from", "batch", "--to", "orders", "--method", "GET", "--path", "/"];
    let shows: [&[&str]; 5] = [&["policy", "report"], &["get", "proxies"], &["services"], &["bypass"], &question];
    for shown in shows {
        let text = mesh.isthmus(shown)?;
        let named = text.contains("BYPASS shop/orders") || shown == ["bypass"] && text.contains("shop/orders");
        require(named && text.contains("incident 4711"), || format!("{shown:?}: {text}"))?;
    }
    let told = mesh.isthmus_json(&["services", "--json"])?;
    let bypassed = |name: &str| {
        let all = told["services"].as_array();
        all.and_then(|all| all.iter().find(|service| service["name"] == name)).is_some_and(|s| s["bypassed"] == true)
    };
    require(bypassed("orders") && !bypassed("orders-tls"), || told.to_string())?;
    // And by the proxy itself, to whoever stands at the machine.
    let status = mesh.status("orders")?;
    require(status["warnings"].to_string().contains("BYPASS shop/orders"), || status.to_string())?;
    require(mesh.status("web")?["bypasses"] == serde_json::json!([]), || "web is not bypassed".to_owned())?;
    let on_record = mesh.isthmus(&["audit", "show", "--what", "bypassed"])?;
    require(on_record.contains("admin") && on_record.contains("incident 4711"), || on_record.clone())?;
    // A slip of the pen opens nothing, and says what was meant.
    let (code, told) = asked(mesh, &["bypass", "shop/oders", "--for", "1h", "--json"], "")?;
    ends(code, 1, &told)?;
    require(told["error"].as_str().is_some_and(|e| e.contains("did you mean `shop/orders`?")), || told.to_string())?;
    mesh.isthmus(&["bypass", "orders", "--end"])?;
    mesh.until(REPORTED, "batch is refused again", |mesh| passes(mesh, 403))?;
    mesh.isthmus(&["bypass", "shop/orders", "--for", "6s"])?;
    mesh.until(REPORTED, "batch passes once more", |mesh| passes(mesh, 200))?;
    mesh.control_mut().kill();
    mesh.until(REPORTED, "the bypass ends by itself", |mesh| passes(mesh, 403))
}

fn unconfirmed(mesh: &mut Mesh) -> Result<(), String> {
    let apply = ["apply", "-f", "-", "--confirm", "12s", "--json"];
    let (code, told) = asked(mesh, &apply, &resources::batch_allowed())?;
    ends(code, 0, &told)?;
    mesh.until(REPORTED, "batch passes", |mesh| Ok((mesh.get("batch", ORDERS_URL)?.status == 200).then_some(())))?;
    mesh.control_mut().kill();
    mesh.restart_control()?;
    let rolled_back = |mesh: &Mesh| mesh.isthmus(&["audit", "show", "--what", "rolled-back"]);
    mesh.until(REPORTED, "it is taken back", |mesh| Ok((mesh.get("batch", ORDERS_URL)?.status == 403).then_some(())))?;
    let (code, told) = asked(mesh, &apply, &resources::batch_allowed())?;
    ends(code, 0, &told)?;
    mesh.isthmus(&["confirm"])?;
    let (code, told) = asked(mesh, &["confirm", "--json"], "")?;
    ends(code, 1, &told)?;
    let taken_back = rolled_back(mesh)?;
    require(taken_back.contains("which nobody confirmed in time"), || taken_back.clone())?;
    let confirmed = mesh.isthmus(&["audit", "show", "--what", "confirmed", "--by", "admin"])?;
    require(confirmed.contains("of operator admin"), || confirmed.clone())
}

/// Both orders: a policy below the floor, and a floor above a policy.
fn floor(mesh: &mut Mesh) -> Result<(), String> {
    let low = resources::plaintext_allowed();
    mesh.apply(&low)?;
    let high = resources::mesh(&mesh.collector_url(), "24h").replacen(
        "  enforcement: Enforce",
        "  enforcement: Enforce\n  floor: { transport: HttpsOnly, minTlsVersion: \"1.2\" }",
        1,
    );
    let said = mesh.apply_refused("mesh.yaml", &high)?;
    let named = said.contains("ServicePolicy shop/orders")
        && said.contains(
            "spec.transport: Permissive is below the mesh's floor, HttpsOnly (MeshConfig spec.floor.transport)",
        );
    require(named, || said.clone())?;
    mesh.apply(resources::policy("orders"))?;
    mesh.apply(&high)?;
    let said = mesh.apply_refused("orders.yaml", &low)?;
    let named = said.starts_with("orders.yaml:")
        && said.contains("spec.transport: Permissive is below the mesh's floor, HttpsOnly");
    require(named, || said.clone())?;
    let said = mesh.apply_refused("orders.yaml", &resources::old_tls_allowed())?;
    require(said.contains("spec.minTlsVersion: 1.1 is below the mesh's floor, 1.2"), || said.clone())?;
    // What was refused changed nothing.
    require(mesh.get("stranger", STRAIGHT)?.status == 403, || "plaintext is let in".to_owned())?;
    require(mesh.get("web", ORDERS_URL)?.status == 200, || "web is refused".to_owned())
}

/// From Permissive and Observe to a list that fits: the operator's whole evening.
fn suggested(mesh: &mut Mesh) -> Result<(), String> {
    mesh.apply(&resources::plaintext_allowed())?;
    mesh.isthmus(&["policy", "enforce", "orders", "--observe", "--yes"])?;
    mesh.until(REPORTED, "batch passes", |mesh| Ok((mesh.get("batch", ORDERS_URL)?.status == 200).then_some(())))?;
    for path in ["orders/1", "orders/2", "orders/3"] {
        mesh.get("web", &format!("{ORDERS_URL}{path}"))?;
    }
    let report = ["policy", "report", "orders", "--all", "--json"];
    let callers = |told: &Value| told["callers"].as_array().map_or(0, Vec::len);
    mesh.until(REPORTED, "web and batch are on record", |mesh| {
        let (_, told) = asked(mesh, &report, "")?;
        Ok((callers(&told) >= 2).then_some(()))
    })?;
    // Nobody needs Permissive, as far as was seen; then somebody does.
    let permissive = |told: &Value| {
        let all = told["permissive"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|port| port["port"] == "shop/orders:8080").unwrap_or_default()
    };
    let (_, told) = asked(mesh, &report, "")?;
    require(permissive(&told)["canEnd"] == true, || told.to_string())?;
    require(mesh.get("stranger", STRAIGHT)?.status == 200, || "Permissive does not let plaintext in".to_owned())?;
    let told = mesh.until(REPORTED, "the stranger is on record", |mesh| {
        let (_, told) = asked(mesh, &report, "")?;
        Ok((permissive(&told)["canEnd"] == false).then_some(told))
    })?;
    require(permissive(&told)["neededBy"][0]["caller"] == "10.20.1.99", || told.to_string())?;

    let (code, told) = asked(mesh, &["policy", "suggest", "orders", "--json"], "")?;
    ends(code, 0, &told)?;
    let yaml = told["yaml"].as_str().unwrap_or_default().to_owned();
    let notes = told["notes"].to_string();
    require(yaml.contains("sa/web") && yaml.contains("mode: Audit") && !yaml.contains('*'), || yaml.clone())?;
    require(notes.contains("10.20.1.99 comes by plaintext") && notes.contains("seen once"), || notes.clone())?;
    // It is in Audit, and replayed as if it were not: those whom it names pass, and whom it leaves out does not.
    let replay = ["policy", "replay", "-f", "-", "--target", "orders", "--json"];
    let (code, told) = asked(mesh, &replay, &yaml)?;
    ends(code, 0, &told)?;
    let verdicts = |told: &Value, caller: &str| {
        let all = told["outcomes"].as_array().cloned().unwrap_or_default();
        let of = all.into_iter().filter(|o| o["caller"] == caller && o["outOfMesh"] == false);
        of.map(|o| o["verdict"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for caller in ["shop/web", "shop/batch", "10.20.1.99"] {
        let found = verdicts(&told, caller);
        require(!found.is_empty() && found.iter().all(|verdict| verdict == "allowed"), || format!("{caller}: {told}"))?;
    }
    // With an end of Permissive the stranger breaks, and nobody else.
    let (code, told) = asked(mesh, &replay, &format!("{}\n---\n{yaml}", resources::policy("orders")))?;
    ends(code, 4, &told)?;
    require(verdicts(&told, "10.20.1.99") == ["refused"], || told.to_string())?;
    require(verdicts(&told, "shop/batch").iter().all(|verdict| verdict == "allowed"), || told.to_string())
}
