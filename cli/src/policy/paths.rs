//! Paths as they were recorded, and the ones that they may have been.

use isthmus_proto::model::{Conditions, PathPattern};

/// As the proxy records them.
pub(super) const OTHER: &str = "other";
const UNCLEAR: &str = "unclear";
/// Stands for any id; no rule names it.
const SOME_ID: &str = "0not1recorded2";
/// It has no normal form. What was recorded so may have been the like, or one that the new rules bring into a normal form
/// (`//orders`) and the old ones did not look at.
const UNCLEAR_PATH: &str = "/not%2Fclear";

/// One path for each way in which rules can tell them apart.
pub(super) fn instances(recorded: &str, conditions: &[&Conditions]) -> Vec<String> {
    let unclear = recorded == UNCLEAR;
    let patterns = conditions.iter().flat_map(|c| c.paths.iter().chain(&c.not_paths)).flatten();
    let grpc = conditions.iter().flat_map(|c| c.grpc.iter().chain(&c.not_grpc)).flatten();
    let any = recorded == OTHER || unclear;
    if !any && !recorded.contains('{') {
        return vec![recorded.to_owned()];
    }
    let mut found = vec![if any { format!("/{SOME_ID}") } else { fill(recorded, &[]) }];
    for pattern in patterns {
        let like = sample(pattern);
        let segments: Vec<&str> = like.split('/').skip(1).collect();
        add(&mut found, if any { like.clone() } else { fill(recorded, &segments) });
    }
    if any {
        for pattern in grpc {
            let text = pattern.to_string();
            add(&mut found, if text.contains('/') { format!("/{text}") } else { format!("/{text}/{SOME_ID}") });
        }
    }
    if unclear {
        found.push(UNCLEAR_PATH.to_owned());
    }
    found
}

fn add(found: &mut Vec<String>, path: String) {
    if !found.contains(&path) {
        found.push(path);
    }
}

/// The recorded template with what a pattern has at its open places.
fn fill(recorded: &str, like: &[&str]) -> String {
    let segments = recorded.split('/').skip(1).enumerate().map(|(at, segment)| match segment.starts_with('{') {
        true => like.get(at).copied().filter(|like| !like.is_empty()).unwrap_or(SOME_ID),
        false => segment,
    });
    segments.flat_map(|segment| ["/", segment]).collect()
}

/// A path that the pattern holds for.
fn sample(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}{SOME_ID}"),
        PathPattern::Template(template) => {
            let segments = template.segments().iter().map(|segment| segment.as_deref().unwrap_or(SOME_ID));
            let path = segments.collect::<Vec<_>>().join("/");
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            if template.is_open() { format!("{path}/{SOME_ID}") } else { path }
        }
    }
}

#[cfg(test)]
#[path = "paths_test.rs"]
mod paths_test;
