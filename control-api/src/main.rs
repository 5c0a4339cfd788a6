//! The control plane alone, for images that hold nothing else. `isthmus control` is the same.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use tikv_jemalloc_ctl::{Access, AsName};

/// The Isthmus control plane: gives workloads identity, policy and routes
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    args: isthmus_control::Args,
}

const EXAMPLES: &str = "\
Examples:
  isthmus-control --config /etc/isthmus/control.yaml
  isthmus-control --config control.yaml --check       only check the configuration

The least configuration:
  trustDomain: shop.example
  stateDir: /var/lib/isthmus-control
  advertise: 10.10.0.2:15012

On first start it makes its CA and <stateDir>/operator.yaml, with which `isthmus apply` and the others reach it.
SIGTERM and SIGINT drain and end; a second one ends at once. Exit code 78: the configuration cannot be used.";

/// What nobody uses goes back so soon; jemalloc's own default is ten seconds. As in `isthmus control`.
const IDLE_MEMORY_MS: isize = 1_000;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Memory of closed connections goes back to the system though no allocation comes; if not, we are only larger.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    for decay in [&b"arenas.dirty_decay_ms\0"[..], b"arena.0.dirty_decay_ms\0"] {
        let _ = decay.name().write(IDLE_MEMORY_MS);
    }
    isthmus_control::run_blocking(&Cli::parse().args)
}
