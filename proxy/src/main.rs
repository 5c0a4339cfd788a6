//! The data plane alone, for images that hold nothing else. `isthmus proxy` is the same.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// The Isthmus sidecar: carries one workload's traffic through the mesh
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    args: isthmus_proxy::Args,
}

const EXAMPLES: &str = "\
Examples:
  isthmus-proxy --config /etc/isthmus/proxy.yaml
  isthmus-proxy --config proxy.yaml --check           only check the configuration
  ISTHMUS_JOIN_TOKEN=\"$(cat token)\" isthmus-proxy     enrol with a join token (or joinTokenFile in the configuration)

SIGTERM and SIGINT drain and end; a second one ends at once. After SIGTERM the capture rules stay (capture.onStop),
after SIGINT (Ctrl-C) they go. Exit code 78: the configuration cannot be used.";

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    isthmus_proxy::return_idle_memory();
    isthmus_proxy::run_blocking(&Cli::parse().args)
}
