//! The arrows of ARCHITECTURE.md, read from the manifests and from the `crate::` paths: a new arrow is a decision, and
//! is made here, in the open.

use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use in what it ships.
const CRATES: &[(&str, &[&str])] = &[
    ("certs", &[]),
    ("proxy/http2", &[]),
    ("proxy/netlink", &[]),
    ("proto", &["certs"]),
    ("proxy", &["certs", "http2", "netlink", "proto"]),
    ("control-api", &["certs", "http2", "proto"]),
    ("tests", &["netlink"]),
    ("cli", &["certs", "control", "proto", "proxy", "world"]),
];

/// Which parts of `proxy/src` each part may use. `reason` is a word list that everybody may use, `telemetry` counts for
/// everybody but the blocks that only move or read bytes.
const PROXY: &[(&str, &[&str])] = &[
    ("detect", &[]),
    ("tcp", &[]),
    ("dns", &["tcp"]),
    ("tls", &["detect", "tcp"]),
    ("http", &["detect", "tcp", "telemetry", "tls"]),
    ("listen", &["tcp", "telemetry"]),
    ("redirect", &[]),
    ("config", &["redirect", "telemetry"]),
    ("telemetry", &["tcp"]),
    ("state", &[]),
    ("flows", &["state"]),
    ("probe", &["tcp"]),
    ("control", &["flows", "probe", "state", "tcp", "telemetry"]),
    ("outbound", &["detect", "dns", "flows", "http", "state", "tcp", "telemetry", "tls"]),
    ("inbound", &["detect", "flows", "http", "state", "tcp", "telemetry", "tls"]),
    ("admin", &["config", "flows", "redirect", "state", "telemetry"]),
];

const MAX_LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every `.rs` file below, in a stable order.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of ours").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|ext| ext == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_test"))
}

/// The first names after each `crate::` of a text: `crate::{a, b::c}` gives `a` and `b`.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for after in code.split("crate::").skip(1) {
        let names = match after.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![after],
        };
        for name in names {
            let name: String = name.trim_start().chars().take_while(|&c| c.is_ascii_lowercase() || c == '_').collect();
            if !name.is_empty() {
                used.push(name);
            }
        }
    }
    used
}

/// Splits `a, b::{c, d}, e}` at its outer commas, up to the closing brace.
fn top_level(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn crates_use_only_what_their_arrows_allow() {
    for &(dir, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        let mut section = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            // What only tests use is free: a suite has to see both sides.
            let Some(ours) = line.strip_prefix("isthmus-").filter(|_| section == "[dependencies]") else {
                continue;
            };
            let name: String = ours.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(allowed.contains(&name.as_str()), "{dir}/Cargo.toml: {dir} must not use isthmus-{name}");
        }
    }
}

#[test]
fn parts_of_the_proxy_use_only_what_their_arrows_allow() {
    let src = root().join("proxy/src");
    for &(part, allowed) in PROXY {
        for path in sources(&src.join(part)).into_iter().filter(|path| !is_test(path)) {
            for used in used_modules(&fs::read_to_string(&path).unwrap()) {
                let free = used == part || used == "reason" || allowed.contains(&used.as_str());
                assert!(free, "{}: {part} must not use {used}", path.display());
            }
        }
    }
}

#[test]
fn every_part_of_the_proxy_has_its_arrows_written_down() {
    for entry in fs::read_dir(root().join("proxy/src")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `app` is the only one that knows everybody.
        if entry.path().is_dir() && name != "app" && name != "bin" {
            assert!(PROXY.iter().any(|&(part, _)| part == name), "proxy/src/{name}: name what it may use, here");
        }
    }
}

#[test]
fn only_control_writes_the_state() {
    for path in sources(&root().join("proxy/src")).into_iter().filter(|path| !is_test(path)) {
        let part =
            path.strip_prefix(root().join("proxy/src")).unwrap().iter().next().unwrap().to_string_lossy().into_owned();
        let publishes = fs::read_to_string(&path).unwrap().contains(".publish(");
        assert!(!publishes || part == "control" || part == "state", "{}: only control publishes state", path.display());
    }
}

#[test]
fn files_can_be_read_in_one_go() {
    let mut long = Vec::new();
    for dir in ["certs", "proto", "proxy", "control-api", "cli", "tests", "benches"] {
        for path in sources(&root().join(dir)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_LINES {
                long.push(format!("{}: {lines}", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "more than {MAX_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn nested_paths_are_read_as_the_compiler_reads_them() {
    assert_eq!(used_modules("use crate::{tls, http::{a, b}, reason::Reason};"), ["tls", "http", "reason"]);
    assert_eq!(used_modules("crate::state::Mesh; // fine\n// crate::never"), ["state"]);
}
