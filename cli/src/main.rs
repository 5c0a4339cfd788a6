//! One binary for an operator and for a machine: commands that talk to the control plane, commands that change this
//! machine (`join`, `leave`), and the two daemons, so that a single file is enough on a VM.
//!
//! It refuses before it acts: a bad flag ends with 2, a refusal or failure with 1 and what to do about it, a wait that
//! ran out with 3.
#![forbid(unsafe_code)]

mod completions;
mod demo;
mod output;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The operator's command of the Isthmus service mesh.
#[derive(Parser, Debug)]
#[command(name = "isthmus", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Version(version::Args),
    Completions(completions::Args),
    Demo(demo::Args),
}

fn main() -> ExitCode {
    // CHILD HOOK: `isthmus_world::child_entry()` goes here, before any thread starts.
    match Cli::parse().command {
        Command::Version(args) => version::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Demo(args) => demo::run(args),
    }
}
