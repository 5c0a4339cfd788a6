//! `isthmus completions`: the shell learns the command line from the same definitions that parse it.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus completions bash > /etc/bash_completion.d/isthmus\n  \
    isthmus completions zsh > \"${fpath[1]}/_isthmus\"")]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "isthmus", &mut std::io::stdout());
    ExitCode::SUCCESS
}
