//! Instructions and heap allocations per call of the proxy's hot functions, counted by callgrind and memcheck: the same
//! numbers on a busy machine as on a quiet one. `cargo bench -p isthmus-benches [NAME…]` counts; without valgrind it says so and counts nothing.
//!
//! No function is marked and no symbol is looked for. This program runs itself under each tool twice, with few calls and
//! with many: the difference is the calls' own, because everything around them was the same.

#![forbid(unsafe_code)]

mod cases;
mod mesh;
mod policy;
mod spans;

use std::env;
use std::process::{Command, ExitCode};

use cases::{ALL, Case};
use isthmus_world::find;

/// By this word the program knows that it is the one under callgrind.
const RUN: &str = "__run";
const FEW: u64 = 100;
const MANY: u64 = 1_100;

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`, which says nothing here.
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let result = match words.first().map(String::as_str) {
        Some(RUN) => run(&words[1..]),
        _ => count_all(&words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> impl Iterator<Item = &'static Case> {
    ALL.iter().chain(policy::ALL).chain(spans::ALL)
}

fn run(words: &[String]) -> Result<(), String> {
    let [name, calls] = words else { return Err(format!("{RUN} NAME CALLS")) };
    let case = all().find(|case| case.name == name).ok_or_else(|| format!("no case {name}"))?;
    let calls: u64 = calls.parse().map_err(|_| format!("{calls:?} is no number"))?;
    let mut call = (case.prepare)();
    for number in 0..calls {
        call(number);
    }
    Ok(())
}

fn count_all(names: &[String]) -> Result<(), String> {
    let Some(valgrind) = find::program("valgrind") else {
        println!("skipped: valgrind is not installed (Debian: apt-get install valgrind), and nothing was counted");
        return Ok(());
    };
    println!("| per call | instructions | allocations |\n|---|---:|---:|");
    for case in all().filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str()))) {
        let per_call = |counter: &Counter| -> Result<f64, String> {
            let (few, many) = (count(&valgrind, counter, case, FEW)?, count(&valgrind, counter, case, MANY)?);
            Ok((many - few) / (MANY - FEW) as f64)
        };
        println!("| {} | {:.0} | {:.0} |", case.what, per_call(&INSTRUCTIONS)?, per_call(&ALLOCATIONS)?);
    }
    Ok(())
}

/// One of valgrind's tools, and where its report has the number: after one word and before another.
struct Counter {
    arguments: &'static [&'static str],
    after: &'static str,
    before: &'static str,
}

const INSTRUCTIONS: Counter =
    Counter { arguments: &["--tool=callgrind", "--callgrind-out-file=/dev/null"], after: "Collected : ", before: "\n" };
const ALLOCATIONS: Counter = Counter {
    arguments: &["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"],
    after: "total heap usage: ",
    before: " allocs",
};

/// Of the whole process.
fn count(valgrind: &std::path::Path, counter: &Counter, case: &Case, calls: u64) -> Result<f64, String> {
    let own = env::current_exe().map_err(|error| format!("looking for our own executable: {error}"))?;
    let mut command = Command::new(valgrind);
    command.args(counter.arguments).arg(own);
    let output = command.args([RUN, case.name, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("{}: {error}", valgrind.display()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let number = told.split_once(counter.after).and_then(|(_, rest)| rest.split_once(counter.before));
    let counted = number.and_then(|(number, _)| number.replace(',', "").trim().parse().ok());
    match (output.status.success(), counted) {
        (true, Some(counted)) => Ok(counted),
        _ => Err(format!("{} under valgrind: {}\n{told}", case.name, output.status)),
    }
}
