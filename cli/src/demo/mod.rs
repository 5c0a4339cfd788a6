//! `isthmus demo`: the mission's network on one machine.

use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> ExitCode {
    ExitCode::SUCCESS
}
