//! `isthmus approve`: changes that take two operators. Without an id, those that wait.

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::apply::differences_text;
use crate::ca;
use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::problems::{Problem, changes_json, changes_text, resource_json};

/// Have done what another operator has asked for and what takes two, or show what waits.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus approve                             what waits for a second operator\n  \
    isthmus approve 7f3a9c2100aa41de --show     what it would change now\n  \
    isthmus approve 7f3a9c2100aa41de            have it done\n  \
    isthmus approve 7f3a9c2100aa41de --reject   it is not done; its author may withdraw it by this, too\n\n\
    What takes two: `operators: { secondApprover: … }` in control.yaml, docs/operators.md.")]
pub(crate) struct Args {
    /// Of the change, as it was named to its author. Without it: all that wait.
    id: Option<String>,
    /// Only show what it would change now.
    #[arg(long, requires = "id", conflicts_with = "reject")]
    show: bool,
    /// Say no.
    #[arg(long, requires = "id")]
    reject: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    let work = async {
        match args.id {
            None => list(format, operator).await,
            Some(id) if args.reject => reject(id, format, operator).await,
            Some(id) => approve(id, args.show, format, operator).await,
        }
    };
    finish(connect::block_on(work), format)
}

async fn list(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ListApprovalsRequest {};
    let approvals = authority.call(async |client| client.list_approvals(request).await).await?.approvals;
    match format {
        Format::Json | Format::Yaml => {
            println!("{}", json!({ "ok": true, "approvals": approvals.iter().map(approval_json).collect::<Vec<_>>() }))
        }
        Format::Table if approvals.is_empty() => println!("nothing waits for a second operator"),
        Format::Table => {
            let row = |a: &wire::Approval| {
                vec![a.id.clone(), a.author.clone(), a.what.clone(), when(a.until_unix_ms), a.reasons.join("; ")]
            };
            let rows: Vec<_> = approvals.iter().map(row).collect();
            print!("{}", table(&["ID", "BY", "WHAT", "UNTIL", "WHY IT TAKES TWO"], &rows));
        }
    }
    Ok(())
}

async fn approve(id: String, show: bool, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ApproveRequest { id, dry_run: show };
    let answer = authority.call(async |client| client.approve(request).await).await?;
    if !answer.problems.is_empty() {
        return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
    }
    let approval = answer.approval.clone().unwrap_or_default();
    if let Some(rotation) = answer.rotation.as_ref().filter(|_| !show) {
        return ca::print_state(rotation, format);
    }
    match format {
        Format::Json | Format::Yaml => println!(
            "{}",
            json!({ "ok": true, "approval": approval_json(&approval), "done": !show, "revision": answer.revision,
                    "changes": changes_json(&answer.changes), "confirmUntilUnixMs": answer.confirm_until_unix_ms })
        ),
        Format::Table => print!("{}", done_text(&answer, &approval, show)),
    }
    Ok(())
}

fn done_text(answer: &wire::ApproveResponse, approval: &wire::Approval, show: bool) -> String {
    let mut text = changes_text(&answer.changes, show) + &differences_text(&answer.changes);
    let wire::Approval { id, author, what, .. } = approval;
    if show {
        text += &format!("{what} of {author} would do this; to have it done: isthmus approve {id}\n");
        return text;
    }
    text += &format!("{what} of {author} is done: revision {}\n", answer.revision);
    if answer.confirm_until_unix_ms != 0 {
        let until = when(answer.confirm_until_unix_ms);
        text += &format!("it is taken back at {until}, unless `isthmus confirm` is said\n");
    }
    text
}

async fn reject(id: String, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::RejectRequest { id };
    let approval = authority.call(async |client| client.reject(request).await).await?.approval.unwrap_or_default();
    match format {
        Format::Json | Format::Yaml => println!("{}", json!({ "ok": true, "approval": approval_json(&approval) })),
        Format::Table => println!("{} of {} is not done", approval.what, approval.author),
    }
    Ok(())
}

fn approval_json(approval: &wire::Approval) -> Value {
    json!({ "id": approval.id, "author": approval.author, "what": approval.what, "reasons": approval.reasons,
            "askedUnixMs": approval.asked_unix_ms, "untilUnixMs": approval.until_unix_ms,
            "resources": approval.resources.iter().map(resource_json).collect::<Vec<_>>() })
}

#[cfg(test)]
#[path = "approve_test.rs"]
mod approve_test;
