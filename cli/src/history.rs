//! `isthmus history`: which revisions there were, who made them, and what they changed.

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Resources};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};
use crate::problems::{change_word, resource_json, resource_name};
use crate::{difference, get, kinds};

/// Show what was changed, when and by whom, the latest first.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus history                             the latest revisions\n  \
    isthmus history policy shop/orders --diff   those of one resource, line by line\n  \
    isthmus history 812                         what revision 812 changed\n  \
    isthmus history --limit 5 --json\n\n\
    How many are kept is said by `history` in control.yaml; `isthmus rollback` goes back to one.")]
pub(crate) struct Args {
    /// A revision's number, or a kind.
    #[arg(value_name = "REVISION|KIND")]
    what: Option<String>,
    /// NAME with -n, or NAMESPACE/NAME.
    #[arg(requires = "what")]
    name: Option<String>,
    /// Of a name without one.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Each change line by line. One revision is always shown so.
    #[arg(long)]
    diff: bool,
    /// At most so many revisions.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(history(args, operator)), format)
}

async fn history(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let (revision, resource) = about(args.what.as_deref(), args.name.as_deref(), args.namespace.as_deref())?;
    let format = args.output.format();
    let texts = args.diff || revision != 0 || format != Format::Table;
    let mut client = Resources::connect(operator).await?;
    let request = wire::HistoryRequest { resource, revision, limit: args.limit, texts };
    let answer = client.call(async |client| client.history(request).await).await?;
    match format {
        Format::Json | Format::Yaml => {
            let revisions: Vec<Value> = answer.revisions.iter().map(revision_json).collect();
            let (present, oldest) = (answer.present, answer.oldest);
            println!("{:#}", json!({ "present": present, "oldest": oldest, "revisions": revisions }));
        }
        Format::Table if answer.revisions.is_empty() => eprintln!("nothing was changed for as long as history is kept"),
        Format::Table if texts => answer.revisions.iter().for_each(|revision| print!("{}", revision_text(revision))),
        Format::Table => print!("{}", revisions_table(&answer.revisions)),
    }
    Ok(())
}

/// `812`, or `policy shop/orders`, or nothing.
fn about(
    what: Option<&str>,
    name: Option<&str>,
    namespace: Option<&str>,
) -> Result<(u64, Option<wire::ResourceRef>), Failure> {
    match (what, name) {
        (None, _) => Ok((0, None)),
        (Some(what), None) if what.bytes().all(|b| b.is_ascii_digit()) => match what.parse() {
            Ok(revision @ 1..) => Ok((revision, None)),
            _ => Err(Failure::usage(format!("there is no revision {what}"), "isthmus history")),
        },
        (Some(kind), name) => one(kind, name, namespace).map(|resource| (0, Some(resource))),
    }
}

/// `policy shop/orders`, or `policy/shop/orders` in one word.
pub(crate) fn one(kind: &str, name: Option<&str>, namespace: Option<&str>) -> Result<wire::ResourceRef, Failure> {
    let (kind, name) = match (kind.split_once('/'), name) {
        (Some((kind, name)), None) => (kind, name),
        (_, Some(name)) => (kind, name),
        (None, None) => {
            return Err(Failure::usage(format!("{kind}: which one?"), format!("{kind} NAMESPACE/NAME")));
        }
    };
    let kind = kinds::parse(kind).map_err(|e| Failure::usage(e, "a kind as `isthmus get` takes it"))?;
    get::reference(kind, name, namespace)
}

fn revisions_table(revisions: &[wire::Revision]) -> String {
    let row = |revision: &wire::Revision| {
        vec![
            revision.revision.to_string(),
            when(revision.at_unix_ms),
            or_dash(&revision.who),
            or_dash(&revision.how),
            changes_in_a_line(revision),
        ]
    };
    let rows: Vec<_> = revisions.iter().map(row).collect();
    table(&["REVISION", "AT", "BY", "HOW", "CHANGES"], &rows)
}

/// `ServicePolicy shop/orders updated, and 11 more`.
fn changes_in_a_line(revision: &wire::Revision) -> String {
    const SHOWN: usize = 3;
    let one = |change: &wire::Change| {
        let name = change.resource.as_ref().map(resource_name).unwrap_or_default();
        format!("{name} {}", change_word(change.kind()))
    };
    let mut parts: Vec<String> = revision.changes.iter().take(SHOWN).map(one).collect();
    let more = revision.changes.len().saturating_sub(SHOWN) + revision.more as usize;
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

fn revision_text(revision: &wire::Revision) -> String {
    let (at, who, how) = (when(revision.at_unix_ms), or_dash(&revision.who), or_dash(&revision.how));
    let mut text = format!("revision {}  {at}  {who}  {how}\n", revision.revision);
    for change in &revision.changes {
        let name = change.resource.as_ref().map(resource_name).unwrap_or_default();
        text.push_str(&format!("\n{name} {}\n", change_word(change.kind())));
        text.push_str(&difference::unified(&change.before_yaml, &change.after_yaml));
    }
    if revision.more > 0 {
        text.push_str(&format!("\nand {} more\n", revision.more));
    }
    text.push('\n');
    text
}

fn revision_json(revision: &wire::Revision) -> Value {
    let change = |change: &wire::Change| {
        json!({
            "resource": change.resource.as_ref().map(resource_json),
            "change": change_word(change.kind()),
            "before": change.before_yaml,
            "after": change.after_yaml,
        })
    };
    json!({
        "revision": revision.revision,
        "atUnixMs": revision.at_unix_ms,
        "by": revision.who,
        "how": revision.how,
        "changes": revision.changes.iter().map(change).collect::<Vec<_>>(),
        "more": revision.more,
    })
}

#[cfg(test)]
#[path = "history_test.rs"]
mod history_test;
