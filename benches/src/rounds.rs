//! Rounds: every contender has its turn in each, one after the other, so that what changes on the machine changes for
//! all. The first of a round is another one each time.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use crate::arguments::Arguments;
use crate::certificates::Certificates;
use crate::peers::Peer;
use crate::programs::Programs;

/// Something that is measured: W1 to W7 of the project's performance document.
pub(crate) struct Workload {
    /// As in `--workload` and in the JSON.
    pub(crate) name: &'static str,
    /// One line for people.
    pub(crate) what: &'static str,
    /// The first is the one that ratios are made of; less of it is better.
    pub(crate) figures: &'static [Figure],
    /// Which contenders can do it.
    pub(crate) contenders: &'static [Peer],
    /// One turn of one contender.
    pub(crate) turn: fn(&Bench, Peer) -> Result<Turn, String>,
}

/// A column of the result.
pub(crate) struct Figure {
    /// In the JSON.
    pub(crate) key: &'static str,
    /// Over the column, with the unit.
    pub(crate) heading: &'static str,
    /// Digits behind the point in tables.
    pub(crate) digits: usize,
}

/// What one turn gave: values by the figures' keys, and facts in words.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Turn {
    pub(crate) values: BTreeMap<&'static str, f64>,
    pub(crate) facts: BTreeMap<&'static str, String>,
}

/// All turns of a contender; `None` or an error where a round gave nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) peer: Peer,
    /// One per round.
    pub(crate) turns: Vec<Result<Turn, String>>,
}

/// What every turn needs.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) certificates: Certificates,
    pub(crate) length: Duration,
    contenders: Vec<Peer>,
    rounds: u32,
    _files: TempDir,
}

impl Bench {
    pub(crate) fn new(programs: Programs, arguments: &Arguments) -> Result<Self, String> {
        let files =
            TempDir::with_prefix("isthmus-bench-").map_err(|error| format!("a temporary directory: {error}"))?;
        let certificates = Certificates::make(files.path())?;
        let contenders = arguments.contenders().into_iter().filter(|peer| programs.of(*peer).is_some()).collect();
        let (length, rounds) = (arguments.duration(), arguments.rounds);
        Ok(Self { programs, certificates, length, contenders, rounds, _files: files })
    }

    /// All rounds of a workload.
    pub(crate) fn run(&self, workload: &Workload) -> Vec<Outcome> {
        let taking_part = self.contenders.iter().copied().filter(|peer| workload.contenders.contains(peer));
        let mut outcomes: Vec<Outcome> = taking_part.map(|peer| Outcome { peer, turns: Vec::new() }).collect();
        let contenders = outcomes.len();
        for round in 0..self.rounds as usize {
            for turn in 0..contenders {
                let outcome = &mut outcomes[(round + turn) % contenders];
                let result = (workload.turn)(self, outcome.peer);
                eprintln!(
                    "{} round {}: {}: {}",
                    workload.name,
                    round + 1,
                    outcome.peer.name(),
                    line(workload, &result)
                );
                outcome.turns.push(result);
            }
        }
        outcomes
    }
}

fn line(workload: &Workload, turn: &Result<Turn, String>) -> String {
    match turn {
        Err(error) => format!("FAILED: {error}"),
        Ok(turn) => {
            let shown = workload.figures.iter().filter_map(|figure| {
                let value = turn.values.get(figure.key)?;
                Some(format!("{} {value:.*}", figure.heading, figure.digits))
            });
            shown.collect::<Vec<_>>().join(", ")
        }
    }
}
