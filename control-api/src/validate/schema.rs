//! JSON Schemas and CustomResourceDefinitions, made of what the readers of documents ask for ([`super::asked`]) while they
//! read one example of each field (`every_field.yaml`). There is no second list of fields to keep: a field that a reader
//! takes and no example has is an error here, and a test.

use super::asked::{Asked, Form, Place};
use super::{FILLED_IN, GROUP, KINDS, Kind, asked_of, node};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const EVERY_FIELD: &str = include_str!("every_field.yaml");
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What each kind is for, as an editor shows it.
const ABOUT: &[(&str, &str)] = &[
    ("MeshConfig", "The mesh as a whole: trust domain, enforcement, defaults, and the floor that no team can lower."),
    ("Site", "A place with its own network, its address ranges and resolvers."),
    ("Link", "What joins two sites."),
    ("TrustDomain", "Another mesh whose identities are believed, with its roots."),
    ("Workload", "A virtual machine with a sidecar: where it is, its addresses, and who it is."),
    ("ServicePolicy", "Who may reach services, and over which transport."),
    ("TrafficPolicy", "How the connections of services are carried."),
    ("EgressPolicy", "Where the workloads of a namespace may go outside of the mesh."),
    ("Enforcement", "Whether the refusals of services are carried out."),
    ("Bypass", "Break-glass. Opened by `isthmus bypass`, never applied."),
    ("OperatorRole", "What operators may do."),
    ("Tenant", "Namespaces that see and route to each other's services, and to nobody else's."),
    ("Service", "A service of Kubernetes, also without selector and as ExternalName."),
    ("Endpoints", "Hand-written addresses of a Service without selector."),
    ("EndpointSlice", "Hand-written addresses of a Service without selector."),
];

/// A kind's schema, and its name in the files.
#[derive(Clone, Debug)]
pub struct Schema {
    pub kind: &'static str,
    /// Kinds of our group are CustomResourceDefinitions in Kubernetes.
    pub ours: bool,
    namespaced: bool,
    pub json: Value,
    spec: Value,
}

/// Of every kind. `Err`: fields that some reader takes, and no example has.
pub fn all() -> Result<Vec<Schema>, String> {
    let (documents, faults) = node::parse(EVERY_FIELD);
    if let Some(fault) = faults.first() {
        return Err(format!("every_field.yaml: {}", fault.reason));
    }
    let mut schemas = Vec::new();
    for kind in KINDS {
        let mut asked = Asked::default();
        let of_kind = |document: &&node::Node| document.get("kind").and_then(node::Node::text) == Some(kind.name);
        documents.iter().filter(of_kind).for_each(|document| asked.add(asked_of(document)));
        let mut missing = Vec::new();
        let mut json = at(&asked, "", &mut missing);
        if !missing.is_empty() || asked.places.is_empty() {
            let what = if missing.is_empty() { "anything".to_string() } else { missing.join(", ") };
            return Err(format!("every_field.yaml has no example of {} {what}", kind.name));
        }
        let spec = json["properties"]["spec"].clone();
        describe(&mut json, kind);
        schemas.push(Schema {
            kind: kind.name,
            ours: kind.api_version == GROUP,
            namespaced: kind.namespaced,
            json,
            spec,
        });
    }
    Ok(schemas)
}

/// What a document of this kind is by its outer fields, which no example can tell.
fn describe(json: &mut Value, kind: &Kind) {
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", kind.api_version));
    let about = ABOUT.iter().find(|(name, _)| *name == kind.name).map(|(_, about)| *about);
    json["$schema"] = json!(DIALECT);
    json["title"] = json!(kind.name);
    json["description"] = json!(about.unwrap_or_default());
    json["x-kubernetes-group-version-kind"] = json!([{ "group": group, "version": version, "kind": kind.name }]);
    json["properties"]["apiVersion"] = json!({ "const": kind.api_version });
    json["properties"]["kind"] = json!({ "const": kind.name });
    let metadata = &mut json["properties"]["metadata"];
    for name in FILLED_IN {
        metadata["properties"][*name] = json!({ "description": "Filled in by Kubernetes, and not stored." });
    }
    metadata["properties"]["resourceVersion"] = json!({
        "type": ["string", "integer"],
        "description": "The version that this was written from. An apply of an older one is a conflict.",
    });
    if !kind.namespaced
        && let Some(properties) = metadata["properties"].as_object_mut()
    {
        properties.remove("namespace");
    }
}

fn at(asked: &Asked, path: &str, missing: &mut Vec<String>) -> Value {
    let Some(place) = asked.places.get(path) else {
        missing.push(path.to_string());
        return Value::Null;
    };
    if !place.known.is_empty() {
        return object(asked, path, place, missing);
    }
    let has = |form: &Form| place.forms.contains(form);
    if has(&Form::Map) {
        return map_of_texts();
    }
    if has(&Form::List) || has(&Form::NotEmpty) {
        let mut list = json!({ "type": "array", "items": at(asked, &format!("{path}[]"), missing) });
        if has(&Form::NotEmpty) {
            list["minItems"] = json!(1);
        }
        return list;
    }
    one_of(forms(place), path, missing)
}

fn map_of_texts() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

fn object(asked: &Asked, path: &str, place: &Place, missing: &mut Vec<String>) -> Value {
    let dot = if path.is_empty() { "" } else { "." };
    let mut properties = Map::new();
    for name in &place.known {
        let schema = match (path, name.as_str()) {
            // The same for every kind, and not in every example.
            ("", "apiVersion" | "kind") | ("metadata", "namespace") => json!({ "type": "string" }),
            ("metadata", "labels" | "annotations") => map_of_texts(),
            _ => at(asked, &format!("{path}{dot}{name}"), missing),
        };
        properties.insert(name.clone(), schema);
    }
    for name in place.read_over.difference(&place.known) {
        properties.insert(name.clone(), json!({ "description": "Kubernetes' own; the mesh reads over it." }));
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let needed: BTreeSet<&String> = place.needed.iter().flatten().filter(|name| place.known.contains(*name)).collect();
    if !needed.is_empty() {
        schema["required"] = json!(needed);
    }
    schema
}

/// A word of a closed set, or a time, is read as a text as well; that says no more about it.
fn forms(place: &Place) -> Vec<Value> {
    let words: Vec<&String> =
        place.forms.iter().filter_map(|form| if let Form::Word(word) = form { Some(word) } else { None }).collect();
    let has = |form: &Form| place.forms.contains(form);
    let mut all = Vec::new();
    if !words.is_empty() {
        all.push(json!({ "type": "string", "enum": words }));
    } else if has(&Form::Duration) {
        all.push(json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }));
    } else if has(&Form::Text) {
        all.push(json!({ "type": "string" }));
    }
    if has(&Form::Flag) {
        all.push(json!({ "type": "boolean" }));
    }
    if has(&Form::Port) {
        all.push(json!({ "type": "integer", "minimum": 1, "maximum": 65535 }));
    } else if has(&Form::Number) {
        all.push(json!({ "type": "number" }));
    }
    all
}

fn one_of(mut forms: Vec<Value>, path: &str, missing: &mut Vec<String>) -> Value {
    match forms.len() {
        0 => {
            missing.push(path.to_string());
            Value::Null
        }
        1 => forms.remove(0),
        _ => json!({ "anyOf": forms }),
    }
}

/// One schema for files that hold any of them.
fn any(schemas: &[Schema]) -> Value {
    let each: Vec<Value> = schemas.iter().map(|schema| json!({ "$ref": schema.file() })).collect();
    json!({ "$schema": DIALECT, "title": "A resource of Isthmus", "oneOf": each })
}

impl Schema {
    pub fn file(&self) -> String {
        format!("{}.json", self.kind.to_lowercase())
    }

    fn plural(&self) -> String {
        let name = self.kind.to_lowercase();
        match name.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None if name.ends_with('s') => format!("{name}es"),
            None => format!("{name}s"),
        }
    }

    /// As `kubectl apply` takes it.
    pub fn crd(&self) -> Value {
        let (group, version) = GROUP.split_once('/').unwrap_or_default();
        let plural = self.plural();
        let condition = json!({
            "type": "object",
            "required": ["type", "status"],
            "properties": {
                "type": { "type": "string" },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string" },
                "message": { "type": "string" },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer" },
            },
        });
        let status = json!({
            "type": "object",
            "properties": { "conditions": {
                "type": "array",
                "items": condition,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            } },
        });
        let schema = json!({
            "type": "object",
            "description": self.json["description"],
            "required": ["spec"],
            "properties": {
                "apiVersion": { "type": "string" },
                "kind": { "type": "string" },
                "metadata": { "type": "object" },
                "spec": structural(&self.spec),
                "status": status,
            },
        });
        let column = |name: &str, condition: &str| json!({ "name": name, "type": "string", "jsonPath": format!(".status.conditions[?(@.type==\"{condition}\")].status") });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": {
                "group": group,
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "plural": plural,
                    "singular": self.kind.to_lowercase(),
                    "categories": ["isthmus"],
                },
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "versions": [{
                    "name": version,
                    "served": true,
                    "storage": true,
                    "schema": { "openAPIV3Schema": schema },
                    "subresources": { "status": {} },
                    "additionalPrinterColumns": [column("Accepted", "Accepted"), column("In force", "InForce")],
                }],
            },
        })
    }
}

/// What an API server takes: it drops or refuses what is not named by itself, and knows no value of
/// two types: the first is the one to write.
fn structural(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) if fields.contains_key("anyOf") => structural(&fields["anyOf"][0]),
        Value::Object(fields) => {
            let kept =
                fields.iter().filter(|(name, value)| !(*name == "additionalProperties" && **value == json!(false)));
            Value::Object(kept.map(|(name, value)| (name.clone(), structural(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(structural).collect()),
        other => other.clone(),
    }
}

/// Every file of `deploy/schemas` and `deploy/crds`: its path below `deploy`, and what is in it.
pub fn files() -> Result<Vec<(String, String)>, String> {
    let schemas = all()?;
    let mut files = Vec::new();
    for schema in &schemas {
        files.push((format!("schemas/{}", schema.file()), format!("{:#}\n", schema.json)));
        if schema.ours {
            let yaml = serde_saphyr::to_string(&schema.crd()).map_err(|error| error.to_string())?;
            let head = "# Generated by `isthmus schema --write deploy`; do not edit.\n";
            files.push((format!("crds/{}.yaml", schema.plural()), format!("{head}{yaml}")));
        }
    }
    files.push(("schemas/all.json".to_string(), format!("{:#}\n", any(&schemas))));
    Ok(files)
}

/// One example with every field of a kind.
pub fn example(kind: &str) -> String {
    let of_kind = |text: &&str| text.lines().any(|line| line == format!("kind: {kind}"));
    let documents: Vec<&str> = EVERY_FIELD.split("---\n").filter(of_kind).collect();
    let comment = |line: &&str| !line.starts_with('#');
    documents.join("---\n").lines().filter(comment).map(|line| format!("{line}\n")).collect()
}
