//! `bench-peers`: the mesh beside its peers, on the same machine in the same minutes. Each contender is started afresh
//! in two network namespaces joined by one wire, proves that it demands client certificates, and then carries the same
//! load as all others, round after round in turn. Only ratios within one run count (RESULTS.md, "Method").
//!
//! Reads top to bottom: `main` → [`rounds`] → [`workloads`] → [`stage`] and [`peers`] → [`load`] (and [`app`], which it
//! calls) and [`usage`] → [`report`].

#![forbid(unsafe_code)]

mod app;
mod arguments;
mod certificates;
mod load;
mod machine;
mod mutual_tls;
mod peers;
mod programs;
mod report;
mod rounds;
mod stage;
mod usage;
mod workloads;

use std::process::ExitCode;

use clap::Parser;
use isthmus_world::privilege;

use crate::arguments::{Arguments, Output};
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::rounds::Bench;

fn main() -> ExitCode {
    // Children of the world start as this program; then the line below does not return.
    isthmus_world::child_entry();
    if let Some(ended) = app::entry().or_else(peers::linkerd::control::entry) {
        return ended;
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(complete) if complete => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False when something that was asked for could not be measured.
fn run(arguments: &Arguments) -> Result<bool, String> {
    // Before any thread exists: a process with threads cannot enter a user namespace.
    privilege::enter().map_err(|error| error.to_string())?;
    machine::raise_descriptor_limit()?;
    let (programs, missing) = Programs::find(&arguments.contenders())?;
    let all_asked_for = missing.is_empty() || !arguments.names_contenders();
    for missing in &missing {
        eprintln!("not measured: {missing}");
    }
    let mut report = Report::new(Machine::look(&programs), missing, arguments.rounds, arguments.secs);
    let bench = Bench::new(programs, arguments)?;
    for workload in arguments.workloads() {
        report.add(workload, bench.run(workload));
    }
    match arguments.output() {
        Output::Json => println!("{}", report.json()),
        Output::Markdown => print!("{}", report.markdown()),
        Output::Table => print!("{}", report.table()),
    }
    Ok(report.is_complete() && all_asked_for)
}
