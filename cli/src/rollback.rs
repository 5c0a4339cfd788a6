//! `isthmus rollback`: resources as they were after an earlier revision. What that changes is shown first, and what was
//! shown is what happens, or nothing.

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::apply::differences_text;
use crate::asked::agreed;
use crate::connect::{self, Resources};
use crate::failure::{Failure, finish};
use crate::history;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::problems::{Problem, changes_json, changes_text};

/// Go back to an earlier revision: of everything, or of one resource. Is itself a new revision.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus rollback 811                           all resources as they were after revision 811\n  \
    isthmus rollback policy/shop/orders --to 811   this one alone\n  \
    isthmus rollback 811 --dry-run                 show what that would change\n\n\
    Everything goes back but OperatorRoles and bypasses: who was given or refused something since stays so.\n\n\
    EXIT STATUS: 0 done, 1 refused, or not agreed to")]
pub(crate) struct Args {
    /// A revision's number, or KIND/NAME with --to.
    #[arg(value_name = "REVISION|KIND/NAME")]
    what: String,
    /// To which revision, as `isthmus history` names it.
    #[arg(long, value_name = "REVISION")]
    to: Option<u64>,
    /// Of a name without one.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Show what would change; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(rollback(args, operator)), format)
}

async fn rollback(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let format = args.output.format();
    let (revision, resource) = target(&args)?;
    let mut client = Resources::connect(operator).await?;
    let request = wire::RollbackRequest { revision, resource, dry_run: true, if_revision: 0 };
    let first = request.clone();
    let shown = checked(client.call(async |client| client.rollback(first).await).await?)?;
    if format != Format::Json {
        print!("{}{}", changes_text(&shown.changes, args.dry_run), differences_text(&shown.changes));
    }
    if shown.changes.is_empty() {
        return told(format, &shown, true, "it is as it was then; nothing to change");
    }
    if args.dry_run {
        return told(format, &shown, true, "");
    }
    let question = format!("Go back to revision {revision}? {} would change.", resources(shown.changes.len()));
    if !agreed(args.yes, &question)? {
        return Err(Failure::plain("not agreed to; nothing was changed"));
    }
    let request = wire::RollbackRequest { dry_run: false, if_revision: shown.revision, ..request };
    let done = checked(client.call(async |client| client.rollback(request).await).await?)?;
    let said = format!("as after revision {revision}; this is revision {}", done.revision);
    told(format, &done, false, &said)
}

fn resources(n: usize) -> String {
    if n == 1 { "1 resource".to_owned() } else { format!("{n} resources") }
}

fn checked(answer: wire::ApplyResponse) -> Result<wire::ApplyResponse, Failure> {
    match answer.problems.is_empty() {
        true => Ok(answer),
        false => Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect())),
    }
}

fn told(format: Format, answer: &wire::ApplyResponse, dry_run: bool, said: &str) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let changes = changes_json(&answer.changes);
            println!("{}", json!({ "ok": true, "dryRun": dry_run, "revision": answer.revision, "changes": changes }));
        }
        _ if said.is_empty() => {}
        _ => println!("{said}"),
    }
    Ok(())
}

fn target(args: &Args) -> Result<(u64, Option<wire::ResourceRef>), Failure> {
    match (args.what.parse::<u64>(), args.to) {
        (Ok(revision @ 1..), None) => Ok((revision, None)),
        (Ok(_), _) => Err(Failure::usage("two revisions, or one that never was", "isthmus rollback REVISION")),
        (Err(_), Some(to @ 1..)) => {
            history::one(&args.what, None, args.namespace.as_deref()).map(|one| (to, Some(one)))
        }
        (Err(_), _) => {
            let what = format!("{}: back to which revision?", args.what);
            Err(Failure::usage(what, format!("`isthmus history {}`, then --to REVISION", args.what)))
        }
    }
}
