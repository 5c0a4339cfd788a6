//! Instructions per call of the proxy's hot functions, counted by callgrind: the same number on a busy machine as on a
//! quiet one. `cargo bench -p isthmus-benches [NAME…]` counts; without valgrind it says so and counts nothing.
//!
//! No function is marked and no symbol is looked for. This program runs itself under callgrind twice, with few calls and
//! with many: the difference is the calls' own, because everything around them was the same.

#![forbid(unsafe_code)]

mod cases;
mod mesh;

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

fn run(words: &[String]) -> Result<(), String> {
    let [name, calls] = words else { return Err(format!("{RUN} NAME CALLS")) };
    let case = ALL.iter().find(|case| case.name == name).ok_or_else(|| format!("no case {name}"))?;
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
    println!("| instructions per call | |\n|---|---:|");
    for case in ALL.iter().filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(name.as_str())))
    {
        let (few, many) = (count(&valgrind, case, FEW)?, count(&valgrind, case, MANY)?);
        println!("| {} | {:.0} |", case.what, (many - few) / (MANY - FEW) as f64);
    }
    Ok(())
}

/// Instructions of the whole process.
fn count(valgrind: &std::path::Path, case: &Case, calls: u64) -> Result<f64, String> {
    let own = env::current_exe().map_err(|error| format!("looking for our own executable: {error}"))?;
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(own);
    let output = command.args([RUN, case.name, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("{}: {error}", valgrind.display()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match (output.status.success(), collected) {
        (true, Some(instructions)) => Ok(instructions),
        _ => Err(format!("{} under callgrind: {}\n{told}", case.name, output.status)),
    }
}
