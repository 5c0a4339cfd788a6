//! Schemas say what the readers take, no more and no less; what lies in `deploy` is what they are now.

use super::node::Value as NodeValue;
use super::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A check of the part of JSON Schema that is used here; a keyword that it does not know fails the test.
fn valid(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (keyword, wanted) in schema.as_object().unwrap() {
        let wrong = |why: String| Err(format!("{at}: {why}"));
        match keyword.as_str() {
            "$schema"
            | "title"
            | "description"
            | "required"
            | "additionalProperties"
            | "x-kubernetes-group-version-kind" => {}
            "const" if wanted == value => {}
            "enum" if wanted.as_array().unwrap().contains(value) => {}
            "const" | "enum" => return wrong(format!("{value} is not {wanted}")),
            "type" => {
                let is = |kind: &str| match kind {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    other => panic!("type {other}"),
                };
                let kinds: Vec<&str> = match wanted {
                    Value::String(kind) => vec![kind],
                    kinds => kinds.as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect(),
                };
                if !kinds.iter().any(|kind| is(kind)) {
                    return wrong(format!("{value} is no {wanted}"));
                }
            }
            "minimum" if value.as_f64() >= wanted.as_f64() => {}
            "maximum" if value.as_f64() <= wanted.as_f64() => {}
            // What is no list is told by its type.
            "minItems" if value.as_array().is_none_or(|list| list.len() as u64 >= wanted.as_u64().unwrap()) => {}
            "minimum" | "maximum" | "minItems" => return wrong(format!("{value} is beyond {keyword} {wanted}")),
            "pattern" => {
                assert_eq!(wanted, "^[0-9]+(ms|s|m|h|d)$");
                if field::duration(value.as_str().unwrap_or_default()).is_none() {
                    return wrong(format!("{value} does not match {wanted}"));
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    valid(wanted, item, &format!("{at}[{i}]"))?;
                }
            }
            "anyOf" => {
                if !wanted.as_array().unwrap().iter().any(|one| valid(one, value, at).is_ok()) {
                    return wrong(format!("{value} is none of {wanted}"));
                }
            }
            "properties" => fields(schema, value, at)?,
            other => panic!("keyword {other}"),
        }
    }
    match (schema.get("additionalProperties"), schema.get("properties")) {
        (Some(rest), None) => value.as_object().into_iter().flatten().try_for_each(|(_, value)| valid(rest, value, at)),
        _ => Ok(()),
    }
}

fn fields(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Some(object) = value.as_object() else { return Ok(()) };
    for (name, value) in object {
        match schema["properties"].get(name) {
            Some(wanted) => valid(wanted, value, &format!("{at}.{name}"))?,
            None if schema["additionalProperties"] == json!(false) => return Err(format!("{at}: unknown {name}")),
            None => {}
        }
    }
    let needed = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
    needed.filter(|name| !object.contains_key(*name)).try_for_each(|name| Err(format!("{at}: {name} is missing")))
}

fn schema_of(document: &Value) -> Value {
    let all = schema::all().unwrap();
    let found = all.into_iter().find(|schema| document["kind"] == schema.kind);
    found.unwrap_or_else(|| panic!("no schema for {}", document["kind"])).json
}

fn reads(document: &Value) -> Result<(), String> {
    let done = parse_document("", "t", &node::from_json(document));
    done.map(drop).map_err(|problems| problems[0].to_string())
}

/// The examples, with real roots in place of what stands for them.
fn examples() -> Vec<Value> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let x5c = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, root.der());
    let bundle = json!({ "keys": [{ "use": "x509-svid", "x5c": [x5c] }] }).to_string();
    let text = include_str!("every_field.yaml");
    let json: Vec<Value> = node::parse(text).0.iter().map(node::to_json).collect();
    let text = serde_json::to_string(&json).unwrap();
    let text = text.replace("PEM-OF-A-ROOT\\n", &root.pem().replace('\n', "\\n"));
    let mut all: Vec<Value> = serde_json::from_str(&text).unwrap();
    for document in &mut all {
        if document["spec"].get("spiffeBundle").is_some() {
            document["spec"]["spiffeBundle"] = bundle.clone().into();
        }
    }
    all
}

#[test]
fn every_kind_has_a_schema_of_all_its_fields() {
    let all = schema::all().unwrap();
    assert_eq!(all.iter().map(|schema| schema.kind).collect::<Vec<_>>(), kinds().collect::<Vec<_>>());
    for schema in &all {
        assert!(
            schema.json["description"].as_str().is_some_and(|about| !about.is_empty()),
            "{}: about what?",
            schema.kind
        );
    }
    let policy = &all.iter().find(|schema| schema.kind == "ServicePolicy").unwrap().json;
    let modes = &policy["properties"]["spec"]["properties"]["mode"]["enum"];
    assert_eq!(*modes, json!(["Audit", "Enforce"]));
    let link = &all.iter().find(|schema| schema.kind == "Link").unwrap().json;
    assert_eq!(link["properties"]["spec"]["required"], json!(["sites"]));
}

#[test]
fn each_example_is_sound_to_the_readers_and_to_its_schema() {
    for document in examples() {
        assert_eq!(reads(&document), Ok(()), "{document:#}");
        assert_eq!(valid(&schema_of(&document), &document, ""), Ok(()));
    }
}

/// Every place of a document, as a path of keys and indices.
fn places(value: &Value, here: String, found: &mut Vec<String>) {
    found.push(here.clone());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| places(item, format!("{here}/{i}"), found));
        }
        _ => {}
    }
}

/// Each field in turn is taken out, given another type, or gets a neighbour that nobody knows: whatever a schema refuses
/// the readers refuse, and what is wrong in its structure is refused by both.
#[test]
fn schemas_and_readers_refuse_the_same_structure() {
    let mut tried = 0;
    for document in examples() {
        let schema = schema_of(&document);
        let mut found = Vec::new();
        places(&document, String::new(), &mut found);
        let free = |place: &str| {
            let in_map = ["/labels", "/matchLabels", "/annotations", "/selector"].iter().any(|map| place.contains(map));
            // Which kind it is, and of where, is asked before anything else.
            in_map || place.starts_with("/apiVersion") || place.starts_with("/kind")
        };
        for place in found.iter().filter(|place| !free(place)) {
            let mut unknown = document.clone();
            if let Some(object) = unknown.pointer_mut(place).unwrap().as_object_mut() {
                object.insert("noSuchField".to_string(), json!(1));
                assert!(reads(&unknown).is_err() && valid(&schema, &unknown, "").is_err(), "{place}/noSuchField");
                tried += 1;
            }
            if place.is_empty() {
                continue;
            }
            let mut wrong = document.clone();
            let value = wrong.pointer_mut(place).unwrap();
            *value = if value.is_object() { json!([1]) } else { json!({ "x": 1 }) };
            assert!(reads(&wrong).is_err() && valid(&schema, &wrong, "").is_err(), "{place}: {wrong:#}");
            let mut without = document.clone();
            let (outer, name) = place.rsplit_once('/').unwrap();
            if let Some(object) = without.pointer_mut(outer).unwrap().as_object_mut() {
                object.remove(name);
                // Readers also refuse what is missing because of something else; never the other way round.
                assert!(valid(&schema, &without, "").is_ok() || reads(&without).is_err(), "{place} may be left out");
            }
            tried += 2;
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn what_lies_in_deploy_is_what_is_made_now() {
    let deploy = root().join("deploy");
    let files = schema::files().unwrap();
    if std::env::var_os("ISTHMUS_UPDATE_SCHEMA").is_some() {
        for (path, text) in &files {
            fs::create_dir_all(deploy.join(path).parent().unwrap()).unwrap();
            fs::write(deploy.join(path), text).unwrap();
        }
    }
    for (path, text) in &files {
        let there = fs::read_to_string(deploy.join(path)).unwrap_or_default();
        assert!(there == *text, "deploy/{path} is out of date: `isthmus schema --write deploy`");
    }
    for dir in ["schemas", "crds"] {
        let names = fs::read_dir(deploy.join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
        for name in names {
            let path = format!("{dir}/{}", name.to_str().unwrap());
            assert!(files.iter().any(|(known, _)| *known == path), "deploy/{path} is of no kind");
        }
    }
}

#[test]
fn what_the_documents_and_examples_show_is_sound() {
    let mut tried = 0;
    let mut dirs = vec![root().join("docs"), root().join("deploy/examples")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.to_str().unwrap();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let yaml: Vec<String> = match path.extension().and_then(|extension| extension.to_str()) {
                Some("yaml") => vec![fs::read_to_string(&path).unwrap()],
                Some("md") => blocks(&fs::read_to_string(&path).unwrap()),
                _ => continue,
            };
            // A fragment is no document: what it is a part of is said around it.
            for document in yaml.iter().flat_map(|text| node::parse(text).0) {
                let json = node::to_json(&document);
                let known = json["kind"].as_str().is_some_and(|kind| kinds().any(|known| known == kind));
                if known && json.get("apiVersion").is_some() {
                    assert_eq!(valid(&schema_of(&json), &json, ""), Ok(()), "{name}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 10, "{tried}");
}

/// What stands between ```yaml and ```.
fn blocks(text: &str) -> Vec<String> {
    let after = text.split("```yaml\n").skip(1);
    after.map(|rest| rest.split("```").next().unwrap_or_default().to_string()).collect()
}

#[test]
fn resource_definitions_are_what_an_api_server_takes() {
    fn check(schema: &Value, at: &str) {
        let Some(fields) = schema.as_object() else { return };
        let typed = fields.contains_key("type") || fields.contains_key("x-kubernetes-preserve-unknown-fields");
        assert!(typed, "{at}: a structural schema names a type");
        assert!(!(fields.contains_key("properties") && fields.contains_key("additionalProperties")), "{at}");
        for forbidden in ["const", "anyOf", "oneOf", "$ref"] {
            assert!(!fields.contains_key(forbidden), "{at}: {forbidden}");
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            check(inner, &format!("{at}.{name}"));
        }
        if let Some(items) = fields.get("items") {
            check(items, &format!("{at}[]"));
        }
    }
    for schema in schema::all().unwrap().iter().filter(|schema| schema.ours) {
        let crd = schema.crd();
        check(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema.kind);
        let (plural, group) =
            (crd["spec"]["names"]["plural"].as_str().unwrap(), crd["spec"]["group"].as_str().unwrap());
        assert_eq!(crd["metadata"]["name"], format!("{plural}.{group}"));
    }
}

#[test]
fn the_examples_of_a_kind_are_printed_without_the_others() {
    let text = schema::example("TrustDomain");
    let documents = node::parse(&text).0;
    assert_eq!(documents.len(), 2, "{text}");
    assert!(documents.iter().all(|document| matches!(&document.value, NodeValue::Map(_))));
}
