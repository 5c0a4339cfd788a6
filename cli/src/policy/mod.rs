//! `isthmus policy`: from what the mesh has seen to what it shall allow. Decisions are recorded by the proxies and kept by
//! the control plane; whatever is asked of a policy here is answered by the proxy's own engine.

pub(crate) mod departures;
mod enforce;
pub(crate) mod flows;
pub(crate) mod judge;
mod paths;
mod permissive;
pub(crate) mod replay;
mod report;
mod suggest;
pub(crate) mod target;
pub(crate) mod views;

use std::process::ExitCode;

use clap::Subcommand;

use crate::connect;
use crate::failure::finish;
use crate::operator::OperatorArgs;

/// See who calls whom and how, try policies on it, and move services from Observe to Enforce.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus policy report                             who still speaks plaintext to whom\n  \
    isthmus policy suggest shop/orders > orders.yaml  the smallest allow-list that fits what was seen\n  \
    isthmus policy replay -f orders.yaml --last 7d    whom it would cut off\n  \
    isthmus policy enforce shop/orders                the one step from Observe to Enforce")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Report(report::Args),
    Replay(replay::Args),
    Suggest(suggest::Args),
    Enforce(enforce::Args),
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let (format, result) = match args.what {
        What::Report(args) => (args.output.format(), connect::block_on(report::run(args, operator))),
        What::Replay(args) => (args.output.format(), connect::block_on(replay::run(args, operator))),
        What::Suggest(args) => (args.output.format(), connect::block_on(suggest::run(args, operator))),
        What::Enforce(args) => (args.output.format(), connect::block_on(enforce::run(args, operator))),
    };
    finish(result, format)
}
