//! Documents in, resources out: the one validation for files, the admin API and whatever source comes later.
//!
//! text → [`node`] (tree with places) → [`parse`] (typed resource, every fault of every document at once) → [`cross`]
//! (do the resources fit together). A document with a fault is refused as a whole.

pub mod advice;
pub mod asked;
mod bundle;
pub mod cross;
pub(crate) mod cross_addresses;
mod cross_egress;
mod egress;
pub mod field;
mod health;
mod kubernetes;
mod names;
pub mod node;
mod operator_role;
mod origination;
mod ours;
mod probes;
mod problem;
pub mod resource;
pub mod schema;
mod service_policy;
pub mod set;
mod standing;

pub use problem::{Problem, ResourceRef};

use asked::{Asked, Form};
use field::{Field, Report, nearest};
use node::{Node, SyntaxError, Value};
use resource::{Labels, Resource, Spec};

#[cfg(test)]
#[path = "egress_test.rs"]
mod egress_test;
#[cfg(test)]
#[path = "parse_test.rs"]
mod parse_test;
#[cfg(test)]
#[path = "probes_test.rs"]
mod probes_test;
#[cfg(test)]
#[path = "schema_test.rs"]
mod schema_test;

/// Our API group, in the version that is served.
pub const GROUP: &str = "mesh.isthmus.dev/v1alpha1";

/// The names of all kinds.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// A kind, where it belongs, and whether its names live in a namespace.
struct Kind {
    name: &'static str,
    api_version: &'static str,
    namespaced: bool,
}

const KINDS: &[Kind] = &[
    Kind { name: "MeshConfig", api_version: GROUP, namespaced: false },
    Kind { name: "Site", api_version: GROUP, namespaced: false },
    Kind { name: "Link", api_version: GROUP, namespaced: false },
    Kind { name: "TrustDomain", api_version: GROUP, namespaced: false },
    Kind { name: "Tenant", api_version: GROUP, namespaced: false },
    Kind { name: "OperatorRole", api_version: GROUP, namespaced: false },
    Kind { name: "Workload", api_version: GROUP, namespaced: true },
    Kind { name: "ServicePolicy", api_version: GROUP, namespaced: true },
    Kind { name: "TrafficPolicy", api_version: GROUP, namespaced: true },
    Kind { name: "EgressPolicy", api_version: GROUP, namespaced: true },
    Kind { name: "Enforcement", api_version: GROUP, namespaced: true },
    Kind { name: "Bypass", api_version: GROUP, namespaced: true },
    Kind { name: "Service", api_version: "v1", namespaced: true },
    Kind { name: "Endpoints", api_version: "v1", namespaced: true },
    Kind { name: "EndpointSlice", api_version: "discovery.k8s.io/v1", namespaced: true },
];

/// Where a resource of Kubernetes' own kinds is that names no namespace.
const KUBERNETES_DEFAULT: &str = "default";

/// What Kubernetes fills in and nobody writes; not stored.
const FILLED_IN: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// A resource that was read from text, with what it takes to point into that text.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub resource: Resource,
    pub source: String,
    pub node: Node,
}

/// Reads every document of a text. Good ones and faults are both returned: who asked decides whether one fault refuses
/// all (an apply) or only itself (a directory).
pub fn parse(source: &str, yaml: &str) -> (Vec<Parsed>, Vec<Problem>) {
    parse_in("", source, yaml)
}

/// The same, with the namespace of documents that name none.
pub fn parse_in(namespace: &str, source: &str, yaml: &str) -> (Vec<Parsed>, Vec<Problem>) {
    let (documents, faults) = node::parse(yaml);
    let no_yaml = |error: SyntaxError| Problem {
        source: source.to_string(),
        line: error.line,
        column: error.column,
        resource: ResourceRef::default(),
        field: String::new(),
        reason: format!("not valid YAML: {}", error.reason),
    };
    let mut parsed = Vec::new();
    let mut problems: Vec<Problem> = faults.into_iter().map(no_yaml).collect();
    for document in documents.into_iter().flat_map(unfold_list) {
        match parse_document(namespace, source, &document) {
            Ok(resource) => parsed.push(Parsed { resource, source: source.to_string(), node: document }),
            Err(found) => problems.extend(found),
        }
    }
    (parsed, problems)
}

/// What is no document: a bypass in a file would come back after its time, and nobody would be asked why.
pub fn by_command_only(parsed: &Parsed) -> Option<Problem> {
    let resource = &parsed.resource.key;
    (resource.kind == "Bypass").then(|| Problem {
        source: parsed.source.clone(),
        line: parsed.node.line,
        column: parsed.node.column,
        resource: resource.clone(),
        field: "kind".to_string(),
        reason: "a bypass is opened by `isthmus bypass`, which puts it on record, and never applied".to_string(),
    })
}

/// What is asked for of a document of this kind, with what it takes to say so. Whether it is sound does not matter here.
fn asked_of(document: &Node) -> Asked {
    let report = Report::noting("");
    read(&Field::root(document, &report), &report, "");
    report.into_asked()
}

/// A resource from what the store holds. Faults mean that the store was written by another version.
pub fn from_stored(json: &serde_json::Value) -> Result<Resource, Vec<Problem>> {
    let (document, report) = (node::from_json(json), Report::new("store"));
    let resource = read(&Field::root(&document, &report), &report, "");
    sound(resource, report)
}

/// `kind: List`, as `kubectl get -o yaml` writes it, stands for its items.
fn unfold_list(document: Node) -> Vec<Node> {
    let is_list = document.get("kind").and_then(Node::text) == Some("List");
    match document.get("items").map(|items| &items.value) {
        Some(Value::List(items)) if is_list => items.clone(),
        _ => vec![document],
    }
}

fn parse_document(namespace: &str, source: &str, document: &Node) -> Result<Resource, Vec<Problem>> {
    let report = Report::new(source);
    let root = Field::root(document, &report);
    let resource = read(&root, &report, namespace);
    if root.get("apiVersion").is_some_and(|version| version.node().text() == Some(GROUP))
        && let Some(spec) = root.get("spec")
    {
        spec.refuse_nulls();
    }
    sound(resource, report)
}

fn sound(resource: Option<Resource>, report: Report) -> Result<Resource, Vec<Problem>> {
    let problems = report.into_problems();
    match resource {
        Some(resource) if problems.is_empty() => Ok(resource),
        _ => Err(problems),
    }
}

fn read(root: &Field, report: &Report, namespace: &str) -> Option<Resource> {
    if root.entries().is_empty() {
        root.fault("is not a resource; it starts with `apiVersion`, `kind` and `metadata`");
        return None;
    }
    let kind = read_kind(root)?;
    let (key, labels) = read_metadata(root, kind, report, namespace)?;
    let spec = read_spec(root, kind, &key, &labels)?;
    let json = stored_form(root.node(), &key);
    Some(Resource { key, labels, spec, json })
}

fn read_kind(root: &Field) -> Option<&'static Kind> {
    let Some(kind) = known_kind(root) else {
        root.need("apiVersion");
        return None;
    };
    let api_version = root.need_with("apiVersion", || format!("write `apiVersion: {}`", kind.api_version))?;
    let written = api_version.word()?;
    if written != kind.api_version {
        api_version.fault(format!("`{written}` is not where {} is; write `{}`", kind.name, kind.api_version));
    }
    Some(kind)
}

fn known_kind(root: &Field) -> Option<&'static Kind> {
    let field = root.need("kind")?;
    let text = field.word()?;
    let kind = KINDS.iter().find(|kind| kind.name == text);
    if kind.is_none() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let hint = nearest(text, &names).map(|near| format!("did you mean `{near}`?"));
        field.fault(format!(
            "unknown kind `{text}`; {}",
            hint.unwrap_or_else(|| format!("known are {}", names.join(", ")))
        ));
    }
    kind
}

fn read_metadata(root: &Field, kind: &Kind, report: &Report, default: &str) -> Option<(ResourceRef, Labels)> {
    let metadata = root.need("metadata")?;
    metadata.only(&["name", "namespace", "labels", "annotations"], FILLED_IN);
    let name_field = metadata.need("name")?;
    let name = name_field.word()?;
    let mut namespace = "";
    match (metadata.get("namespace"), kind.namespaced) {
        (Some(field), true) => {
            namespace = field.word().unwrap_or_default();
            names::check_label(&field);
        }
        (None, true) if !default.is_empty() => namespace = default,
        // As Kubernetes has it, so that what is written for it means the same here.
        (None, true) if kind.api_version != GROUP => namespace = KUBERNETES_DEFAULT,
        (None, true) => {
            report.about(ResourceRef::new(kind.name, "", name));
            metadata.need("namespace");
        }
        (Some(field), false) => field.fault(format!("{} belongs to the whole mesh and has no namespace", kind.name)),
        (None, false) => {}
    }
    let key = ResourceRef::new(kind.name, namespace, name);
    report.about(key.clone());
    // A Service's and a Workload's name becomes a DNS label and a part of an identity's look-up; slices have dots.
    if kind.name == "EndpointSlice" {
        if !names::is_subdomain(name) {
            name_field.fault(format!("`{name}` is not a name: a-z, 0-9, `-` and `.`"));
        }
    } else {
        names::check_label(&name_field);
    }
    if kind.name == "MeshConfig" && name != "mesh" {
        name_field.fault(format!("`{name}`: there is one MeshConfig, and its name is `mesh`"));
    }
    let labels = metadata.get("labels").map(|f| labels(&f)).unwrap_or_default();
    if let Some(annotations) = metadata.get("annotations") {
        annotations.note(Form::Map);
    }
    Some((key, labels))
}

fn read_spec(root: &Field, kind: &Kind, key: &ResourceRef, labels: &Labels) -> Option<Spec> {
    const OUTER: [&str; 3] = ["apiVersion", "kind", "metadata"];
    match kind.name {
        "Endpoints" => {
            root.only(&[&OUTER[..], &["subsets"]].concat(), &[]);
            return Some(Spec::Endpoints(kubernetes::endpoints(root, &key.name)));
        }
        "EndpointSlice" => {
            root.only(&[&OUTER[..], &["addressType", "endpoints", "ports"]].concat(), &[]);
            return Some(Spec::Endpoints(kubernetes::endpoint_slice(root, labels)));
        }
        _ => root.only(&[&OUTER[..], &["spec"]].concat(), &["status"]),
    }
    let spec = root.need("spec")?;
    Some(match kind.name {
        "MeshConfig" => Spec::MeshConfig(ours::mesh_config(&spec)),
        "Site" => Spec::Site(ours::site(&spec)),
        "Link" => Spec::Link(ours::link(&spec)),
        "TrustDomain" => Spec::TrustDomain(bundle::trust_domain(&spec)),
        "Workload" => Spec::Workload(ours::workload(&spec)),
        "Service" => Spec::Service(kubernetes::service(&spec)),
        "EgressPolicy" => Spec::EgressPolicy(egress::policy(&spec)),
        "TrafficPolicy" => Spec::TrafficPolicy(ours::traffic_policy(&spec)),
        "Enforcement" => Spec::Enforcement(standing::enforcement(&spec)),
        "Tenant" => Spec::Tenant(operator_role::tenant(&spec)),
        "OperatorRole" => Spec::OperatorRole(operator_role::read(&spec)),
        "Bypass" => Spec::Bypass(standing::bypass(&spec)),
        _ => Spec::ServicePolicy(service_policy::read(&spec)),
    })
}

/// A map of texts.
fn labels(field: &Field) -> Labels {
    field.note(Form::Map);
    let mut labels = Labels::new();
    for (key, _) in field.entries() {
        if let Some(value) = field.get(&key.name).and_then(|f| f.text()) {
            labels.insert(key.name.clone(), value.to_string());
        }
    }
    labels
}

fn stored_form(node: &Node, key: &ResourceRef) -> serde_json::Value {
    let mut json = node::to_json(node);
    if let Some(root) = json.as_object_mut() {
        root.remove("status");
        if let Some(metadata) = root.get_mut("metadata").and_then(|m| m.as_object_mut()) {
            metadata.retain(|name, _| !FILLED_IN.contains(&name.as_str()));
            if !key.namespace.is_empty() {
                metadata.insert("namespace".to_string(), key.namespace.clone().into());
            }
        }
    }
    json
}

/// Where a field was written: `spec.sites[1]` or, if it was left out, the nearest thing around it.
pub fn locate(document: &Node, field: &str) -> (u32, u32) {
    let mut at = document;
    for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(index) => match (&at.value, index.parse::<usize>()) {
                (Value::List(items), Ok(index)) => items.get(index),
                _ => None,
            },
            None => at.get(step),
        };
        match next {
            Some(node) => at = node,
            None => break,
        }
    }
    (at.line, at.column)
}
