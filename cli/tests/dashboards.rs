//! What operators look at is what is there: every metric that a dashboard or an alert names is in the table of
//! docs/metrics.md, and promtool finds the rules right, also when they run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names in the first column of the tables.
fn documented() -> BTreeSet<String> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

/// Words that can only be metrics of ours.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == ':'));
    let ours = words.filter(|word| {
        (word.starts_with("isthmus_") || word.starts_with("process_") || *word == "target_info") && !word.contains('-')
    });
    ours.map(|word| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        base.filter(|base| base.ends_with("_seconds")).unwrap_or(word).to_owned()
    })
    .collect()
}

/// Every PromQL expression of a dashboard, wherever it hangs.
fn expressions(json: &serde_json::Value, found: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    ("expr" | "definition", Some(text)) => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn dashboards_and_alerts_name_only_metrics_that_there_are() {
    let documented = documented();
    assert!(documented.len() > 40, "docs/metrics.md has lost its tables: {documented:?}");
    for board in ["mesh", "service", "link", "control-plane"] {
        let path = format!("deploy/dashboards/{board}.json");
        let json: serde_json::Value = serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut found = Vec::new();
        expressions(&json, &mut found);
        assert!(found.len() >= 8, "{path}: {} expressions", found.len());
        for expression in found {
            let names = named(&expression);
            assert!(!names.is_empty(), "{path}: `{expression}` names no metric");
            let unknown: Vec<_> = names.difference(&documented).collect();
            assert!(unknown.is_empty(), "{path}: `{expression}`: no such metric: {unknown:?}");
        }
    }
    let alerts: String = read("deploy/dashboards/alerts.yaml")
        .lines()
        .filter(|line| {
            !["alert:", "summary:", "description:", "#", "- name:"].iter().any(|s| line.trim().starts_with(s))
        })
        .filter(|line| !line.trim_start().starts_with("- alert"))
        .collect::<Vec<_>>()
        .join("\n");
    let unknown: Vec<_> = named(&alerts).difference(&documented).cloned().collect();
    assert!(unknown.is_empty(), "deploy/dashboards/alerts.yaml: no such metric: {unknown:?}");
}

#[test]
fn promtool_finds_every_alert_right_and_each_fires_when_it_should() {
    let promtool = |words: &[&str]| {
        let ran = Command::new("promtool").args(words).current_dir(root().join("deploy/dashboards")).output();
        match ran {
            Ok(output) => {
                let said =
                    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "promtool {}: {said}", words.join(" "));
            }
            Err(error) if std::env::var_os("CI").is_some() => panic!("promtool (Debian: prometheus): {error}"),
            Err(error) => eprintln!("SKIPPED: promtool (Debian: prometheus): {error}"),
        }
    };
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let rules = read("deploy/dashboards/alerts.yaml");
    let tested = read("deploy/dashboards/alerts_test.yaml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let arms = tested.matches(&format!("alertname: {alert}\n")).count();
        assert!(arms > 0, "{alert} is never seen to fire in alerts_test.yaml");
    }
}
