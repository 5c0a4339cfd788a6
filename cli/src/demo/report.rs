//! What the demo prints: a progress line while it works, one line with a tick or a cross for each thing it shows, and
//! the same facts as JSON.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use isthmus_world::lines::Shown;
use serde_json::{Value, json};

/// Results go to stdout, progress to stderr, so that `--json` can be piped.
pub(super) struct Report {
    json: bool,
    color: bool,
    live: bool,
    started: Instant,
    steps: Vec<Value>,
    failed: usize,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let color = !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            json,
            color,
            live: std::io::stderr().is_terminal(),
            started: Instant::now(),
            steps: Vec::new(),
            failed: 0,
        }
    }

    pub(super) fn title(&self, text: &str) {
        if !self.json {
            println!("{text}\n");
        }
    }

    /// What is going on now. On a terminal it is overwritten by what comes next.
    pub(super) fn progress(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut stderr = std::io::stderr().lock();
        // A progress line that cannot be written is no reason to stop.
        let _ = match self.live {
            true => write!(stderr, "\r\x1b[K  {seconds:4.1} s  {text}…"),
            false => writeln!(stderr, "  {seconds:4.1} s  {text}"),
        };
        let _ = stderr.flush();
    }

    fn clear_progress(&self) {
        if self.live {
            eprint!("\r\x1b[K");
        }
    }

    /// One line of the demo.
    pub(super) fn step(&mut self, number: usize, id: &str, title: &str, took_ms: u64, outcome: Result<Shown, String>) {
        self.clear_progress();
        let (ok, summary, more, facts) = match outcome {
            Ok(shown) => (true, shown.summary, shown.more, shown.facts),
            Err(why) => (false, why, Vec::new(), Value::Null),
        };
        self.failed += usize::from(!ok);
        if !self.json {
            let mark = self.paint(if ok { "32" } else { "31" }, if ok { "✔" } else { "✘" });
            println!("{mark} {number} {}", self.paint("1", title));
            println!("    {}", summary.replace('\n', "\n    "));
            for line in more {
                println!("    {}", self.paint("2", &line));
            }
        }
        self.steps.push(json!({ "line": number, "id": id, "title": title, "ok": ok, "summary": summary,
                                "tookMs": took_ms, "facts": facts }));
    }

    /// A sentence between the lines.
    pub(super) fn say(&self, text: &str) {
        self.clear_progress();
        if !self.json {
            println!("{text}");
        }
    }

    /// The last word. True if every line was so.
    pub(super) fn finish(mut self, about: Value) -> bool {
        self.clear_progress();
        let ok = self.failed == 0 && !self.steps.is_empty();
        let seconds = self.started.elapsed().as_secs_f64();
        if self.json {
            let mut whole = json!({ "ok": ok, "seconds": seconds, "steps": std::mem::take(&mut self.steps) });
            if let (Some(whole), Value::Object(about)) = (whole.as_object_mut(), about) {
                whole.extend(about);
            }
            println!("{whole}");
        } else if ok {
            println!("\nall {} lines hold, in {seconds:.0} s", self.steps.len());
        } else {
            println!("\n{} of {} lines do not hold", self.failed, self.steps.len());
        }
        ok
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
