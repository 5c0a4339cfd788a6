//! The schema against the last landed one: what a field's number once meant it means for ever.
//!
//! `schema.lock` lists every message field, enum value and method as one line. A line may be added; none may go or
//! change. To record additions: `ISTHMUS_UPDATE_SCHEMA=1 cargo test -p isthmus-proto schema`. The update keeps lines
//! that are gone, so that it cannot hide a break.

use std::collections::BTreeSet;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

const FILES: [&str; 12] = [
    "isthmus/identity/v1/identity.proto",
    "isthmus/discovery/v1/discovery.proto",
    "isthmus/admin/v1/admin.proto",
    "isthmus/admin/v1/access.proto",
    "isthmus/admin/v1/authority.proto",
    "isthmus/admin/v1/policy.proto",
    "isthmus/admin/v1/resources.proto",
    "isthmus/admin/v1/live.proto",
    "isthmus/flows/v1/flows.proto",
    "isthmus/live/v1/live.proto",
    "isthmus/traces/v1/traces.proto",
    "isthmus/admin/v1/traces.proto",
];

fn lines(files: &[FileDescriptorProto]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for file in files {
        let package = file.package();
        for message in &file.message_type {
            message_lines(&mut out, package, message);
        }
        for declared in &file.enum_type {
            enum_lines(&mut out, package, declared);
        }
        for service in &file.service {
            for m in &service.method {
                let way = |stream: bool| if stream { "stream " } else { "" };
                out.insert(format!(
                    "rpc {package}.{}/{} {}{} -> {}{}",
                    service.name(),
                    m.name(),
                    way(m.client_streaming()),
                    m.input_type(),
                    way(m.server_streaming()),
                    m.output_type(),
                ));
            }
        }
    }
    out
}

fn message_lines(out: &mut BTreeSet<String>, scope: &str, message: &DescriptorProto) {
    let path = format!("{scope}.{}", message.name());
    for field in &message.field {
        let oneof = field.oneof_index.and_then(|i| message.oneof_decl.get(usize::try_from(i).unwrap()));
        let oneof = oneof.map_or(String::new(), |o| format!(" oneof {}", o.name()));
        out.insert(format!("field {path} {} {} {}{oneof}", field.number(), field.name(), type_of(field)));
    }
    for nested in &message.nested_type {
        message_lines(out, &path, nested);
    }
    for declared in &message.enum_type {
        enum_lines(out, &path, declared);
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    match field.r#type() {
        Type::Message | Type::Enum => format!("{repeated}{}", field.type_name()),
        scalar => format!("{repeated}{}", scalar.as_str_name()),
    }
}

fn enum_lines(out: &mut BTreeSet<String>, scope: &str, declared: &EnumDescriptorProto) {
    for value in &declared.value {
        out.insert(format!("value {scope}.{} {} {}", declared.name(), value.number(), value.name()));
    }
}

/// What of `old` is not in `new`.
fn broken<'a>(old: &'a BTreeSet<String>, new: &BTreeSet<String>) -> Vec<&'a String> {
    old.iter().filter(|line| !new.contains(*line)).collect()
}

#[test]
fn nothing_was_removed_renumbered_retyped_or_renamed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let present = lines(&protox::compile(FILES, [root.join("proto")]).unwrap().file);
    let file = root.join("schema.lock");
    let recorded = std::fs::read_to_string(&file).unwrap_or_default();
    let locked: BTreeSet<String> = recorded.lines().map(str::to_owned).collect();
    assert_eq!(broken(&locked, &present), Vec::<&String>::new(), "proxies in the field read these by the old meaning");
    if std::env::var_os("ISTHMUS_UPDATE_SCHEMA").is_some() {
        let all: Vec<&str> = locked.union(&present).map(String::as_str).collect();
        std::fs::write(&file, all.join("\n") + "\n").unwrap();
    } else {
        let added = broken(&present, &locked);
        assert_eq!(
            added,
            Vec::<&String>::new(),
            "not recorded: ISTHMUS_UPDATE_SCHEMA=1 cargo test -p isthmus-proto schema"
        );
    }
}

#[test]
fn each_kind_of_break_is_seen() {
    let schema = |body: &str| {
        let source = format!("syntax = \"proto3\"; package p; {body}");
        lines(&[protox_parse(&source)])
    };
    let old = schema("message M { uint32 a = 1; string b = 2; } enum E { E_ZERO = 0; E_ONE = 1; }");
    let grown = "message M { uint32 a = 1; string b = 2; bool c = 3; } enum E { E_ZERO = 0; E_ONE = 1; E_TWO = 2; }";
    assert!(broken(&old, &schema(grown)).is_empty());
    let unchanged_enum = "enum E { E_ZERO = 0; E_ONE = 1; }";
    for (what, message) in [
        ("removed", "message M { uint32 a = 1; }"),
        ("renumbered", "message M { uint32 a = 1; string b = 3; }"),
        ("retyped", "message M { uint32 a = 1; bytes b = 2; }"),
        ("renamed", "message M { uint32 a = 1; string bb = 2; }"),
        ("made repeated", "message M { uint32 a = 1; repeated string b = 2; }"),
        ("moved into a oneof", "message M { uint32 a = 1; oneof o { string b = 2; } }"),
    ] {
        assert_eq!(broken(&old, &schema(&format!("{message} {unchanged_enum}"))).len(), 1, "{what}");
    }
}

fn protox_parse(source: &str) -> FileDescriptorProto {
    let dir = std::env::temp_dir().join(format!("isthmus-schema-{}-{:x}", std::process::id(), fnv(source)));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("p.proto"), source).unwrap();
    let parsed = protox::compile(["p.proto"], [&dir]).unwrap().file.pop().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    parsed
}

/// Tells the sources apart by name; FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
