//! How a command ends when it could not do what it was asked: one sentence on what is wrong, one on what to do, and the
//! exit status that a script can tell apart.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::output::Format;
use crate::problems::Problem;

/// Refused or failed.
const REFUSED: u8 = 1;
/// The command line was wrong; clap ends with the same number.
const USAGE: u8 = 2;
/// What was waited for did not come in time; it may still come.
const TIMED_OUT: u8 = 3;

/// A question was answered by no: it would be refused, it would break somebody.
const ANSWERED_NO: u8 = 4;

#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    what: String,
    advice: Option<String>,
    problems: Vec<Problem>,
    /// The command has printed it as part of its own answer.
    reported: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: REFUSED, what: what.into(), advice: Some(advice.into()), problems: Vec::new(), reported: false }
    }

    pub(crate) fn plain(what: impl Into<String>) -> Self {
        Self { status: REFUSED, what: what.into(), advice: None, problems: Vec::new(), reported: false }
    }

    pub(crate) fn usage(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: USAGE, ..Self::new(what, advice) }
    }

    pub(crate) fn timed_out(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { status: TIMED_OUT, ..Self::new(what, advice) }
    }

    /// The control plane named every mistake in the input; none of it was stored.
    pub(crate) fn invalid(problems: Vec<Problem>) -> Self {
        let n = problems.len();
        let what = format!("{n} {}; nothing was changed", if n == 1 { "problem" } else { "problems" });
        Self { status: REFUSED, what, advice: None, problems, reported: false }
    }

    /// The same with something better to do about it.
    pub(crate) fn with_advice(self, advice: &str) -> Self {
        Self { advice: Some(advice.to_owned()), ..self }
    }

    /// The question was answered, and the answer is no. What there is to say has been said.
    pub(crate) fn answered_no() -> Self {
        Self { status: ANSWERED_NO, reported: true, ..Self::plain("") }
    }

    /// Only the exit status is left to set.
    pub(crate) fn reported(self) -> Self {
        Self { reported: true, ..self }
    }

    /// Writes the failure where its reader looks: sentences to stderr, or one JSON object to stdout.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        match format {
            _ if self.reported => {}
            Format::Json => println!("{}", self.json()),
            Format::Table | Format::Yaml => eprint!("{}", self.text()),
        }
        ExitCode::from(self.status)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            text.push_str(&format!("{problem}\n"));
        }
        text.push_str(&format!("error: {}\n", self.what));
        if let Some(advice) = &self.advice {
            text.push_str(&format!("  try: {advice}\n"));
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let problems: Vec<Value> = self.problems.iter().map(Problem::json).collect();
        json!({ "ok": false, "status": self.status, "error": self.what, "advice": self.advice, "problems": problems })
    }
}

/// Runs one command's body and turns its end into the process's.
pub(crate) fn finish(result: Result<(), Failure>, format: Format) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format),
    }
}

#[cfg(test)]
#[path = "failure_test.rs"]
mod failure_test;
