//! `bench-link`: whether the link times that spans tell are true. A mesh on two sites with a link between them that holds
//! each frame for so long; of 200 requests the median of what their spans tell has to lie within 5 % of what the emulator's
//! own timestamps say of the same frames, or within 150 µs. Where it does not, up to five series are measured: whatever
//! else runs on the machine only adds to the time.
//!
//! The clocks of the two sites are no part of it: the suite of two sites sets them apart and sees the same.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use isthmus_world::lines::traced::{self, Measured, SAMPLES};
use isthmus_world::mesh::{Mesh, Options};
use isthmus_world::{find, privilege};
use serde_json::{Value, json};

/// Holds the link times that the mesh's spans tell against the link emulator's own.
///
/// The mesh is the binary that users get, beside this one (`cargo build --release -p isthmus`) or named by ISTHMUS. It needs
/// root, or a machine that lets users make namespaces. A run takes a minute.
#[derive(Debug, Parser)]
#[command(name = "bench-link", version)]
#[command(after_help = "EXIT STATUS: 0 all are close enough, 1 one is not, or nothing could be measured")]
struct Arguments {
    /// Milliseconds there and back.
    #[arg(long, value_name = "MS", value_delimiter = ',', default_values_t = [1, 4, 20, 80])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1000))]
    round_trip: Vec<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // Children of the world start as this program; then the line below does not return.
    isthmus_world::child_entry();
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-link: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False when one was not close enough.
fn run(arguments: &Arguments) -> Result<bool, String> {
    // Before any thread exists: a process with threads cannot enter a user namespace.
    privilege::enter().map_err(|error| error.to_string())?;
    let options =
        Options { binary: find::isthmus()?, built_in_only: true, timed: true, round_trip: Duration::from_millis(1) };
    let mesh = Mesh::start(&options, &mut |text| eprintln!("{text}"))?;
    let mut rows = Vec::new();
    for ms in &arguments.round_trip {
        eprintln!("{SAMPLES} requests over {ms} ms");
        mesh.world().link().set_round_trip(Duration::from_millis(*ms));
        let (measured, series) = traced::closest(&mesh)?;
        rows.push(Row { ms: *ms, measured, series });
    }
    if arguments.json {
        println!("{}", Value::from_iter(rows.iter().map(Row::json)));
    } else {
        println!(
            "| round trip | median of the spans | the emulator's | apart | allowed | series |\n|---:|---:|---:|---:|---:|---:|"
        );
        rows.iter().for_each(|row| println!("{}", row.markdown()));
    }
    Ok(rows.iter().all(|row| row.measured.is_close()))
}

struct Row {
    ms: u64,
    measured: Measured,
    /// Until one was close.
    series: usize,
}

impl Row {
    /// What the mesh says beyond the emulator, in microseconds.
    fn apart(&self) -> i128 {
        self.measured.median.as_micros().cast_signed() - self.measured.emulator.as_micros().cast_signed()
    }

    fn markdown(&self) -> String {
        let Row { ms, measured, series } = self;
        let [median, emulator, allowed] =
            [measured.median, measured.emulator, measured.allowed()].map(|t| t.as_micros());
        let apart = self.apart();
        let verdict = if measured.is_close() { "" } else { " (missed)" };
        format!("| {ms} ms | {median} µs | {emulator} µs | {apart:+} µs{verdict} | {allowed} µs | {series} |")
    }

    fn json(&self) -> Value {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let Row { ms, measured, series } = self;
        json!({ "roundTripMs": ms, "medianUs": us(measured.median), "emulatorUs": us(measured.emulator),
                "allowedUs": us(measured.allowed()), "isClose": measured.is_close(), "series": series })
    }
}
