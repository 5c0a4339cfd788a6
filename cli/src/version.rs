//! `isthmus version`: what this file is, without asking anybody.

use std::process::ExitCode;

use serde_json::json;

use crate::output::{Format, OutputArgs};

/// Print this binary's version, protocol and features.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  isthmus version\n  isthmus version -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let (protocol, features) = (isthmus_proto::PROTOCOL, isthmus_proto::FEATURES);
    match args.output.format() {
        Format::Json => println!("{}", json!({ "version": version, "protocol": protocol, "features": features })),
        Format::Yaml => println!("version: {version}\nprotocol: {protocol}\nfeatures: [{}]", features.join(", ")),
        Format::Table => {
            println!("isthmus {version}\nprotocol {protocol}\nfeatures {}", features.join(" "));
        }
    }
    ExitCode::SUCCESS
}
