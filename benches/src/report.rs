//! The result: medians with their spread, and our ratio to each peer as the median of the ratios of single rounds, for
//! which the machine was the same.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::machine::Machine;
use crate::peers::Peer;
use crate::rounds::{Figure, Outcome, Turn, Workload};

/// Everything that was measured in this run.
pub(crate) struct Report {
    machine: Machine,
    missing: Vec<String>,
    rounds: u32,
    secs: u32,
    results: Vec<(&'static Workload, Vec<Outcome>)>,
}

/// Median, least and most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, missing: Vec<String>, rounds: u32, secs: u32) -> Self {
        Self { machine, missing, rounds, secs, results: Vec::new() }
    }

    pub(crate) fn add(&mut self, workload: &'static Workload, outcomes: Vec<Outcome>) {
        self.results.push((workload, outcomes));
    }

    /// True when every turn of every contender gave a number.
    pub(crate) fn is_complete(&self) -> bool {
        let mut outcomes = self.results.iter().flat_map(|(_, outcomes)| outcomes);
        outcomes.all(|outcome| outcome.turns.iter().all(Result::is_ok))
    }

    pub(crate) fn json(&self) -> String {
        let mut all = Map::new();
        for (workload, outcomes) in &self.results {
            let of_peer = |outcome: &Outcome| (outcome.peer.name().to_owned(), peer_json(workload, outcomes, outcome));
            all.insert(workload.name.to_owned(), Value::Object(outcomes.iter().map(of_peer).collect()));
        }
        all.insert("machine".to_owned(), json!(self.machine));
        all.insert("missing".to_owned(), json!(self.missing));
        all.insert("rounds".to_owned(), json!(self.rounds));
        all.insert("secs".to_owned(), json!(self.secs));
        format!("{:#}", Value::Object(all))
    }

    /// For people at a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (workload, outcomes) in &self.results {
            let rows = rows(workload, outcomes);
            let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
            let _ = writeln!(text, "\n{}: {}\n", workload.name.to_uppercase(), workload.what);
            for row in &rows {
                let cells = row.iter().zip(&widths).enumerate();
                let cells = cells.map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                });
                let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
            }
        }
        text + "\n" + &self.circumstances()
    }

    /// For RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (workload, outcomes) in &self.results {
            let _ = writeln!(text, "**{}**: {}\n", workload.name.to_uppercase(), workload.what);
            for (number, row) in rows(workload, outcomes).iter().enumerate() {
                let _ = writeln!(text, "| {} |", row.join(" | "));
                if number == 0 {
                    let _ = writeln!(text, "|---|{}", "---:|".repeat(row.len() - 1));
                }
            }
            text.push('\n');
        }
        text + &self.circumstances()
    }

    fn circumstances(&self) -> String {
        let Machine { cpu, cores, kernel, load_average, versions } = &self.machine;
        let mut text = format!(
            "{} rounds (fewer where memory and growth are measured) of {} s; {cores} cores, {cpu}, Linux {kernel}; load average before: {load_average:.2}.\n\
             Ratio: ours / theirs, median of the rounds; in brackets the least and the most. A gap under 15 % is a tie.\n\
             Programs: {}.\n",
            self.rounds,
            self.secs,
            versions.join("; "),
        );
        for missing in &self.missing {
            let _ = writeln!(text, "Not measured: {missing}.");
        }
        for (workload, outcome) in self.results.iter().flat_map(|(w, outcomes)| outcomes.iter().map(move |o| (w, o))) {
            let errors: Vec<&String> = outcome.turns.iter().filter_map(|turn| turn.as_ref().err()).collect();
            if let Some(first) = errors.first() {
                let _ = writeln!(
                    text,
                    "Failed: {} {}: {} of {} turns; the first: {first}",
                    workload.name,
                    outcome.peer.name(),
                    errors.len(),
                    outcome.turns.len()
                );
            }
        }
        text
    }
}

fn rows(workload: &Workload, outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let mut head = vec!["".to_owned()];
    for figure in workload.figures {
        head.push(figure.heading.to_owned());
        if figure.compared {
            head.push("ratio".to_owned());
        }
    }
    let mut rows = vec![head];
    for outcome in outcomes {
        let mut row = vec![outcome.peer.name().to_owned()];
        for figure in workload.figures {
            row.push(cell(outcome, figure, figure.compared));
            if figure.compared {
                let ratio = ratio(outcomes, outcome, figure.key);
                row.push(ratio.map_or("–".to_owned(), |ratio| ratio.with_range(2)));
            }
        }
        rows.push(row);
    }
    rows
}

fn cell(outcome: &Outcome, figure: &Figure, with_range: bool) -> String {
    match outcome.spread(figure.key) {
        None => "–".to_owned(),
        Some(spread) if with_range => spread.with_range(figure.digits),
        Some(spread) => format!("{:.*}", figure.digits, spread.median),
    }
}

fn peer_json(workload: &Workload, outcomes: &[Outcome], outcome: &Outcome) -> Value {
    let mut all = Map::new();
    let mut ranges = Map::new();
    let mut ratios = Map::new();
    for figure in workload.figures {
        if let Some(spread) = outcome.spread(figure.key) {
            all.insert(figure.key.to_owned(), json!(spread.median));
            ranges.insert(figure.key.to_owned(), json!([spread.least, spread.most]));
        }
    }
    for figure in workload.figures.iter().filter(|figure| figure.compared) {
        let Some(ratio) = ratio(outcomes, outcome, figure.key) else { continue };
        // The one by which it is judged stands for itself.
        if ratios.is_empty() {
            all.insert("ratio".to_owned(), json!(ratio.median));
            ranges.insert("ratio".to_owned(), json!([ratio.least, ratio.most]));
        }
        ratios.insert(figure.key.to_owned(), json!(ratio.median));
    }
    if !ratios.is_empty() {
        all.insert("ratios".to_owned(), Value::Object(ratios));
    }
    all.insert("spread".to_owned(), Value::Object(ranges));
    let turns = outcome.turns.iter().map(|turn| match turn {
        Ok(Turn { values, facts }) => json!({ "values": values, "facts": facts }),
        Err(error) => json!({ "failed": error }),
    });
    all.insert("turns".to_owned(), turns.collect());
    Value::Object(all)
}

/// Ours by theirs, over the rounds that gave both; where ours without telemetry takes part, each of ours by that one. None
/// for who is compared with, and where there is no such round.
fn ratio(outcomes: &[Outcome], of: &Outcome, key: &str) -> Option<Spread> {
    let find = |peer| outcomes.iter().find(|outcome| outcome.peer == peer);
    let (ours, theirs) = match find(Peer::IsthmusOff) {
        Some(off) => (of, off),
        None => (find(Peer::Isthmus)?, of),
    };
    if ours.peer == theirs.peer {
        return None;
    }
    let both = ours.turns.iter().zip(&theirs.turns);
    let ratios = both.filter_map(|(ours, theirs)| {
        let (ours, theirs) = (ours.as_ref().ok()?.values.get(key)?, theirs.as_ref().ok()?.values.get(key)?);
        (*theirs > 0.0).then(|| ours / theirs)
    });
    Spread::of(ratios.collect())
}

impl Outcome {
    fn spread(&self, key: &str) -> Option<Spread> {
        let turns = self.turns.iter().filter_map(|turn| turn.as_ref().ok());
        Spread::of(turns.filter_map(|turn| turn.values.get(key).copied()).collect())
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (below, above) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(below, above), least, most })
    }

    fn with_range(self, digits: usize) -> String {
        let Self { median, least, most } = self;
        format!("{median:.digits$} [{least:.digits$}–{most:.digits$}]")
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod report_test;
