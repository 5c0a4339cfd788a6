//! `isthmus confirm`: what `apply --confirm` changed stays, or is taken back at once.

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::problems::{changes_json, changes_text};

/// Keep what `apply --confirm` has changed, which the control plane would otherwise take back.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus apply -f orders.yaml --confirm 5m   is taken back after five minutes\n  \
    isthmus confirm                             unless somebody says this\n  \
    isthmus confirm --roll-back                 take it back now")]
pub(crate) struct Args {
    /// Only this revision, as the apply printed it. Without it: whatever awaits confirmation.
    revision: Option<u64>,
    /// Take it back instead.
    #[arg(long)]
    roll_back: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(confirm(args, format, operator)), format)
}

async fn confirm(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let request = wire::ConfirmRequest { revision: args.revision.unwrap_or(0), roll_back: args.roll_back };
    let answer = policy.call(async |client| client.confirm(request).await).await?;
    match (format, args.roll_back) {
        (Format::Json, _) => println!(
            "{}",
            json!({ "ok": true, "revision": answer.revision, "presentRevision": answer.present_revision,
                    "rolledBack": args.roll_back, "changes": changes_json(&answer.changes) })
        ),
        (_, true) => println!("{}revision {} is taken back", changes_text(&answer.changes, false), answer.revision),
        (_, false) => println!("revision {} stays", answer.revision),
    }
    Ok(())
}
