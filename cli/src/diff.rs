//! `isthmus diff`: what an apply would change, line by line. Nothing is changed.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::apply;
use crate::connect;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};

/// Show what applying these files would change.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus diff -f policies/\n  \
    cat orders.yaml | isthmus diff -f - --json\n\n\
    EXIT STATUS: 0 nothing would change, 1 refused or failed, 4 something would change")]
pub(crate) struct Args {
    /// A YAML file, a directory of them (.yaml, .yml), or `-` for stdin. May be repeated.
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// Of documents that name none.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// As `diff` and `kubectl diff` tell "there is a difference" apart from "there is none", by a status of its own.
const DIFFERS: u8 = 4;

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    let done: Result<bool, Failure> =
        connect::block_on(apply::preview(&args.file, args.namespace.as_deref(), operator, format));
    match done {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(DIFFERS),
        Err(failure) => failure.report(if format == Format::Json { Format::Json } else { Format::Table }),
    }
}
