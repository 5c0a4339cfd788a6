//! `bench-control`: one control plane at the size that it is designed for, as its own process, with simulated proxies
//! over the real gRPC and mTLS on loopback. What is measured is in [`phases`], in the order in which it happens.
//!
//! Reads top to bottom: `main` → [`phases`] → [`control`] (the process), [`operator`], [`fleet`] (the proxies), [`mesh`]
//! (what is applied) → [`report`].

#![forbid(unsafe_code)]

mod control;
mod fleet;
mod mesh;
mod operator;
mod phases;
mod report;
mod tls;

use std::process::ExitCode;

use clap::Parser;

/// As the control plane has it: with another one, this process would be what is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the control plane with simulated proxies.
///
/// The program is found beside this one, or by the environment variable ISTHMUS. Nothing but loopback is used.
#[derive(Debug, Parser)]
#[command(name = "bench-control", version)]
pub(crate) struct Arguments {
    /// Services.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) services: usize,
    /// Workloads, each an endpoint of one service.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) endpoints: usize,
    /// Of them, how many have a proxy that is connected.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) proxies: usize,
    /// Services that each proxy uses, besides one that all of them use.
    #[arg(long, default_value_t = 20)]
    pub(crate) uses: usize,
    /// Changes of one endpoint, of each sort.
    #[arg(long, default_value_t = 100)]
    pub(crate) changes: usize,
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
    /// Print a table for RESULTS.md.
    #[arg(long)]
    pub(crate) markdown: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.services == 0 || arguments.endpoints < arguments.services || arguments.proxies > arguments.endpoints {
        eprintln!("bench-control: every service needs an endpoint, and every proxy a workload");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let measured = match runtime {
        Ok(runtime) => runtime.block_on(phases::run(&arguments)),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match measured {
        Ok(report) => {
            println!("{}", report.text(&arguments));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}
