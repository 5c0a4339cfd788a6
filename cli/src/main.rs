//! One binary for an operator and for a machine: commands that talk to the control plane, commands that change this
//! machine (`join`, `leave`), and the two daemons, so that a single file is enough on a VM.
//!
//! It refuses before it acts: a bad flag ends with 2, a refusal or failure with 1 and what to do about it, a wait that
//! ran out with 3.
#![forbid(unsafe_code)]

mod apply;
mod approve;
mod asked;
mod audit;
mod bypass;
mod ca;
mod certs;
mod check;
mod completions;
mod confirm;
mod connect;
mod context;
mod control;
mod delete;
mod demo;
mod diff;
mod difference;
mod documents;
mod edges;
mod edit;
mod explain;
mod failure;
mod get;
mod history;
mod identity;
mod join;
mod kinds;
mod leave;
mod lint;
mod login;
mod look;
mod operator;
mod output;
mod policy;
mod problems;
mod proxies;
mod redirect;
mod robot;
mod rollback;
mod schema;
mod services;
mod span;
mod status;
mod store;
mod support;
mod token;
mod trace;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::operator::OperatorArgs;

/// The operator's command of the Isthmus service mesh.
#[derive(Parser, Debug)]
#[command(name = "isthmus", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus demo                                  see the whole mesh on this machine\n  \
    isthmus apply -f policies/ --wait             push policy and wait until every proxy has it\n  \
    isthmus token create shop/orders --out token  a token that lets one VM join\n\n\
    EXIT STATUS: 0 done, 1 refused or failed, 2 wrong usage, 3 timed out while waiting,\n  \
    4 asked and answered: no (explain: it would be refused; replay, enforce: it would break somebody)")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Apply(WithOperator<apply::Args>),
    Get(WithOperator<get::Args>),
    Diff(WithOperator<diff::Args>),
    Edit(WithOperator<edit::Args>),
    Delete(WithOperator<delete::Args>),
    History(WithOperator<history::Args>),
    Rollback(WithOperator<rollback::Args>),
    Proxies(WithOperator<proxies::Args>),
    Services(WithOperator<services::Args>),
    Endpoints(WithOperator<services::EndpointsArgs>),
    Edges(WithOperator<edges::Args>),
    Login(WithOperator<login::Args>),
    Whoami(WithOperator<login::WhoAmI>),
    Invite(WithOperator<robot::Invite>),
    Robot(WithOperator<robot::Args>),
    Token(WithOperator<token::Args>),
    Certs(WithOperator<certs::Args>),
    Check(WithOperator<check::Args>),
    SupportBundle(WithOperator<support::Args>),
    Context(context::Args),
    Schema(schema::Args),
    Status(status::Args),
    Identity(WithOperator<identity::Args>),
    Ca(WithOperator<ca::Args>),
    Audit(WithOperator<audit::Args>),
    Explain(WithOperator<explain::Args>),
    Policy(WithOperator<policy::Args>),
    Tap(WithOperator<look::tap::Args>),
    Stat(WithOperator<look::stat::Args>),
    Top(WithOperator<look::top::Args>),
    Trace(WithOperator<trace::Args>),
    Bypass(WithOperator<bypass::Args>),
    Confirm(WithOperator<confirm::Args>),
    Approve(WithOperator<approve::Args>),
    Join(join::Args),
    Leave(leave::Args),
    Lint(WithOperator<lint::Args>),
    /// Run the sidecar of this machine or pod.
    Proxy(isthmus_proxy::Args),
    Control(control::ControlArgs),
    Store(store::Args),
    Redirect(redirect::Args),
    Version(version::Args),
    Completions(completions::Args),
    Demo(demo::Args),
}

#[derive(clap::Args, Debug)]
struct WithOperator<A: clap::Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // A child of the demo on its way to become a program; must come before any thread starts.
    isthmus_world::child_entry();
    output::end_with_its_reader();
    match Cli::parse().command {
        Command::Apply(c) => apply::run(c.args, &c.operator),
        Command::Get(c) => get::run(c.args, &c.operator),
        Command::Diff(c) => diff::run(c.args, &c.operator),
        Command::Edit(c) => edit::run(c.args, &c.operator),
        Command::History(c) => history::run(c.args, &c.operator),
        Command::Rollback(c) => rollback::run(c.args, &c.operator),
        Command::Delete(c) => delete::run(c.args, &c.operator),
        Command::Proxies(c) => proxies::run(c.args, &c.operator),
        Command::Services(c) => services::run(c.args, &c.operator),
        Command::Endpoints(c) => services::run_endpoints(c.args, &c.operator),
        Command::Edges(c) => edges::run(c.args, &c.operator),
        Command::Login(c) => login::run(c.args, &c.operator),
        Command::Whoami(c) => login::run_whoami(c.args, &c.operator),
        Command::Invite(c) => robot::run_invite(c.args, &c.operator),
        Command::Robot(c) => robot::run(c.args, &c.operator),
        Command::Token(c) => token::run(c.args, &c.operator),
        Command::Certs(c) => certs::run(c.args, &c.operator),
        Command::SupportBundle(c) => support::run(c.args, &c.operator),
        Command::Context(args) => context::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Check(c) => check::run(c.args, &c.operator),
        Command::Status(args) => status::run(args),
        Command::Identity(c) => identity::run(c.args, &c.operator),
        Command::Ca(c) => ca::run(c.args, &c.operator),
        Command::Audit(c) => audit::run(c.args, &c.operator),
        Command::Explain(c) => explain::run(c.args, &c.operator),
        Command::Policy(c) => policy::run(c.args, &c.operator),
        Command::Tap(c) => look::tap::run(c.args, &c.operator),
        Command::Stat(c) => look::stat::run(c.args, &c.operator),
        Command::Top(c) => look::top::run(c.args, &c.operator),
        Command::Trace(c) => trace::run(c.args, &c.operator),
        Command::Bypass(c) => bypass::run(c.args, &c.operator),
        Command::Approve(c) => approve::run(c.args, &c.operator),
        Command::Confirm(c) => confirm::run(c.args, &c.operator),
        Command::Join(args) => join::run(args),
        Command::Leave(args) => leave::run(args),
        Command::Lint(c) => lint::run(c.args, &c.operator),
        Command::Proxy(args) => {
            isthmus_proxy::return_idle_memory();
            isthmus_proxy::run_blocking(&args)
        }
        Command::Control(args) => control::run(args),
        Command::Store(args) => store::run(args),
        Command::Redirect(args) => redirect::run(args),
        Command::Version(args) => version::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Demo(args) => demo::run(args),
    }
}

#[cfg(test)]
#[path = "args_test.rs"]
mod args_test;
#[cfg(test)]
#[path = "pipelines_test.rs"]
mod pipelines_test;
