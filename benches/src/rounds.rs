//! Rounds: every contender has its turn in each, one after the other, so that what changes on the machine changes for
//! all. The first of a round is another one each time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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
    /// The columns. The first that is compared is the one by which a contender is judged.
    pub(crate) figures: &'static [Figure],
    /// Which contenders can do it.
    pub(crate) contenders: &'static [Peer],
    /// However many rounds are asked for: what takes long and hardly changes has no more than this.
    pub(crate) rounds_at_most: u32,
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
    /// A column with ours / theirs follows.
    pub(crate) compared: bool,
}

impl Figure {
    /// With its ratio.
    pub(crate) const fn compared(key: &'static str, heading: &'static str, digits: usize) -> Self {
        Self { key, heading, digits, compared: true }
    }

    /// Without.
    pub(crate) const fn plain(key: &'static str, heading: &'static str, digits: usize) -> Self {
        Self { key, heading, digits, compared: false }
    }
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
    started: Instant,
    _files: TempDir,
}

impl Bench {
    pub(crate) fn new(programs: Programs, arguments: &Arguments) -> Result<Self, String> {
        let files =
            TempDir::with_prefix("isthmus-bench-").map_err(|error| format!("a temporary directory: {error}"))?;
        let certificates = Certificates::make(files.path())?;
        let contenders = arguments.contenders().into_iter().filter(|peer| programs.of(*peer).is_some()).collect();
        let (length, rounds) = (arguments.duration(), arguments.rounds);
        Ok(Self { programs, certificates, length, contenders, rounds, started: Instant::now(), _files: files })
    }

    /// All rounds of a workload.
    pub(crate) fn run(&self, workload: &Workload) -> Vec<Outcome> {
        let taking_part = self.contenders.iter().copied().filter(|peer| workload.contenders.contains(peer));
        let mut outcomes: Vec<Outcome> = taking_part.map(|peer| Outcome { peer, turns: Vec::new() }).collect();
        let contenders = outcomes.len();
        let rounds = self.rounds.min(workload.rounds_at_most) as usize;
        for round in 0..rounds {
            for turn in 0..contenders {
                let outcome = &mut outcomes[(round + turn) % contenders];
                let result = (workload.turn)(self, outcome.peer);
                let (minutes, seconds) = (self.started.elapsed().as_secs() / 60, self.started.elapsed().as_secs() % 60);
                eprintln!(
                    "{minutes:02}:{seconds:02} {} round {}/{rounds}: {}: {}",
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
