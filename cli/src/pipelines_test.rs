//! The example pipelines are YAML, and each `isthmus` line in them, also in their comments, is one that this binary takes.

use clap::Parser;
use serde_json::Value;
use std::fs;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/pipelines");

fn texts(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.extend(text.lines().map(str::to_owned)),
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Object(map) => map.values().for_each(|item| texts(item, into)),
        _ => {}
    }
}

fn takes(command: &str) -> bool {
    let words = command.split(['|', '>', ')', '&']).next().unwrap_or_default();
    super::Cli::try_parse_from(words.split_whitespace()).is_ok()
}

#[test]
fn every_command_in_the_example_pipelines_parses() {
    let mut seen = 0;
    for entry in fs::read_dir(DIR).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = Vec::new();
        if path.extension().is_some_and(|extension| extension == "yml") {
            let value: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            texts(&value, &mut lines);
        } else {
            lines.extend(text.lines().map(str::to_owned));
        }
        let run: Vec<&str> = lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("isthmus ")).collect();
        assert!(run.len() >= 5, "{}: {run:?}", path.display());
        for said in text.lines().filter(|line| line.trim_start().starts_with(['#', '/'])) {
            let told = said.split('(').skip(1).filter(|rest| rest.starts_with("isthmus "));
            for command in told {
                assert!(takes(command), "{}: {command}", path.display());
                seen += 1;
            }
        }
        for command in run {
            assert!(takes(command), "{}: {command}", path.display());
            assert!(!command.contains("TOKEN"), "{}: a token is never on a command line: {command}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 28, "{seen}");
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    assert!(!takes("isthmus login --tokn x") && !takes("isthmus aply -f mesh/"));
    assert!(takes("isthmus robot create ci --role policy-editor -n shop) and,"));
}
