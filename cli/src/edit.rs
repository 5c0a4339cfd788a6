//! `isthmus edit`: one resource in the operator's editor. What cannot be applied comes back into the editor, with the
//! reasons as comments on top; what somebody else changed meanwhile is shown, and never overwritten unseen.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::apply::{self, Wanted};
use crate::connect::{self, Admin};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::problems::{Problem, changes_json, changes_text, resource_name};
use crate::{difference, documents, history};

/// How our own comments begin. Others are the author's, and end with the edit as in any apply.
const MARK: &str = "#|";
/// A faulty text that comes back unchanged was given up; this often is enough for the others.
const ROUNDS: usize = 50;

/// Change one resource in $VISUAL or $EDITOR.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus edit policy shop/orders\n  \
    EDITOR='code --wait' isthmus edit meshconfig mesh\n\n\
    Saving nothing new changes nothing. A mistake, or a change that somebody else made meanwhile, opens the editor again\n\
    with the reason on top.")]
pub(crate) struct Args {
    /// A kind, as `isthmus get` takes it.
    kind: String,
    /// NAME with -n, or NAMESPACE/NAME.
    name: Option<String>,
    /// Of a name without one.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(edit(args, operator)), format)
}

async fn edit(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let resource = history::one(&args.kind, args.name.as_deref(), args.namespace.as_deref())?;
    let name = resource_name(&resource);
    let dir = tempfile::tempdir().map_err(|e| Failure::plain(format!("a temporary directory: {e}")))?;
    let path = dir.path().join(format!("{}.yaml", resource.name));
    let mut seen = fetch(&resource, operator).await?;
    let mut text = seen.yaml.clone();
    let mut said = vec![format!("{name}. Saved as it is, nothing is changed.")];
    let mut conflict = false;
    for _ in 0..ROUNDS {
        // After a conflict, the same text saved once more is an answer; else it is none.
        let saved = in_editor(&path, &said, &text)?;
        let answered = |saved: &String| !saved.trim().is_empty() && (conflict || *saved != text);
        let Some(saved) = saved.filter(answered) else { return given_up(&text, &seen, &said) };
        text = saved;
        let document = wire::Document { source: name.clone(), yaml: text.clone() };
        if let Some(why) = names_another(&document, &resource) {
            said = vec![why];
            continue;
        }
        let answer = apply::send(&mut Admin::connect(operator).await?, vec![document], &Wanted::default()).await?;
        if answer.problems.is_empty() {
            for warning in &answer.warnings {
                eprintln!("warning: {warning}");
            }
            return done(args.output.format(), &answer);
        }
        said = answer.problems.iter().map(|problem| Problem::from(problem.clone()).to_string()).collect();
        conflict = answer.problems.iter().any(|problem| problem.reason.starts_with("conflict: "));
        if conflict {
            let now = fetch(&resource, operator).await?;
            said = vec![format!("{name} was changed by somebody else meanwhile, like this:")];
            said.extend(difference::unified(&seen.yaml, &now.yaml).lines().map(str::to_owned));
            said.push("Bring that over as you see fit. Saved once more, your text goes in its place.".to_owned());
            text = text.replace(&version_line(&seen.yaml), &version_line(&now.yaml));
            seen = now;
        }
    }
    Err(Failure::plain("too many attempts; nothing was changed"))
}

/// Nothing new was saved: wanted where nothing was wrong, a surrender where something was.
fn given_up(written: &str, seen: &wire::StoredResource, said: &[String]) -> Result<(), Failure> {
    if written.trim() == seen.yaml.trim() {
        println!("nothing was changed");
        return Ok(());
    }
    Err(Failure::new(format!("not applied: {}", said.join("\n")), "edit again; nothing was changed"))
}

fn done(format: Format, answer: &wire::ApplyResponse) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let changes = changes_json(&answer.changes);
            println!("{}", json!({ "ok": true, "revision": answer.revision, "changes": changes }));
        }
        Format::Table | Format::Yaml => print!("{}", changes_text(&answer.changes, false)),
    }
    Ok(())
}

async fn fetch(resource: &wire::ResourceRef, operator: &OperatorArgs) -> Result<wire::StoredResource, Failure> {
    let request = wire::GetRequest { resource: Some(resource.clone()), status: false };
    let answer = Admin::connect(operator).await?.call(async |client| client.get(request).await).await?;
    answer.resource.ok_or_else(|| Failure::plain(format!("there is no {}", resource_name(resource))))
}

/// An edit changes what it was opened for, and makes nothing else.
fn names_another(document: &wire::Document, resource: &wire::ResourceRef) -> Option<String> {
    let names = match documents::named(document, None) {
        // What cannot be read is told by the control plane, with its place.
        Err(_) => return None,
        Ok(names) => names,
    };
    let same = names.len() == 1 && names[0] == *resource;
    (!same)
        .then(|| format!("this edits {} alone; another name or kind is for `isthmus apply`", resource_name(resource)))
}

fn version_line(yaml: &str) -> String {
    yaml.lines().find(|line| line.trim_start().starts_with("resourceVersion:")).unwrap_or_default().to_owned()
}

/// Shows the text with what is to be said on top, and returns what was saved, without that; none if nothing was saved.
fn in_editor(path: &Path, said: &[String], text: &str) -> Result<Option<String>, Failure> {
    let failed = |e: std::io::Error| Failure::plain(format!("{}: {e}; nothing was changed", path.display()));
    let mut shown: String = said.iter().flat_map(|said| said.lines()).map(|line| format!("{MARK} {line}\n")).collect();
    shown.push_str(text);
    fs::write(path, shown).map_err(failed)?;
    let stamp = |metadata: fs::Metadata| (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    let before = fs::metadata(path).map(stamp).map_err(failed)?;
    let editor = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|editor| !editor.is_empty());
    let editor = editor.unwrap_or_else(|| "vi".into());
    // By a shell, since an editor may come with its flags; the path is an argument, and no part of the script.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("exec $ISTHMUS_EDITOR \"$1\"").arg("sh").arg(path).env("ISTHMUS_EDITOR", &editor);
    let ended = command.status().map_err(failed)?;
    if !ended.success() {
        let what = format!("the editor `{}` ended with {ended}; nothing was changed", editor.display());
        return Err(Failure::new(what, "set EDITOR to one that works here"));
    }
    if fs::metadata(path).map(stamp).map_err(failed)? == before {
        return Ok(None);
    }
    let saved = fs::read_to_string(path).map_err(failed)?;
    Ok(Some(saved.lines().filter(|line| !line.starts_with(MARK)).map(|line| format!("{line}\n")).collect()))
}

#[cfg(test)]
#[path = "edit_test.rs"]
mod edit_test;
