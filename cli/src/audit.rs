//! `isthmus audit`: what was issued and refused, what operators did to the mesh, and whether anybody has touched the record.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use isthmus_certs::{Clock, SystemClock};
use isthmus_control::audit::{Entry, Head, What, segments};
use isthmus_control::validate::field::nearest;
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table};
use crate::span;

/// Check and read the record of every certificate that was issued or refused, and of what operators changed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Check that no line was changed, removed, put in or cut off.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus audit verify                                  ask the control plane\n  \
        isthmus audit verify --head 4211:9f86d081884c…        and it must still hold what was there then\n  \
        isthmus audit verify --dir /var/lib/isthmus-control/audit  look at the files, without a control plane")]
    Verify {
        /// NUMBER:HASH, as an earlier verification printed it. Keep it elsewhere: it also proves the end of the log.
        #[arg(long, value_name = "HEAD")]
        head: Option<Head>,
        /// The directory `audit` of a control plane's state directory, or of a backup of it.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what was done lately: by whom, when, to what. The last 50 lines, or those that are asked for.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus audit show\n  \
        isthmus audit show --last 7d --what bypassed --what bypass-ended --what enforced\n  \
        isthmus audit show --by admin --json\n\n\
        EXIT STATUS: 0 shown, also where nothing matches; 1 failed, 2 wrong usage")]
    Show {
        /// How far to look back. Without it: the last 50 lines that match.
        #[arg(long, value_parser = span::parse, value_name = "DURATION")]
        last: Option<Duration>,
        /// Only this: changed, enforced, observed, bypassed, bypass-ended, confirmed, rolled-back, enrolled, refused, …
        #[arg(long, value_name = "WHAT", value_parser = what)]
        what: Vec<What>,
        /// Only what this operator did.
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the record, one JSON object per line, or one array with --json.
    #[command(
        after_help = "EXAMPLES:\n  isthmus audit export > audit.jsonl\n  isthmus audit export --from 4200 --json"
    )]
    Export {
        /// Begin at this line.
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        from: u64,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    match args.command {
        Command::Verify { head, dir, output } => {
            let format = output.format();
            let verified = match dir {
                Some(dir) => verify_files(&dir, head),
                None => connect::block_on(verify(head, operator)),
            };
            finish(verified.map(|verified| print_verified(&verified, format)), format)
        }
        Command::Show { last, what, by, output } => {
            let format = output.format();
            let asked = Asked { last, what, by };
            finish(connect::block_on(show(asked, format, operator)), format)
        }
        Command::Export { from, output } => {
            let format = output.format();
            finish(connect::block_on(export(from, format, operator)), format)
        }
    }
}

struct Verified {
    lines: u64,
    head: String,
}

fn verify_files(dir: &Path, known: Option<Head>) -> Result<Verified, Failure> {
    let mut lines = 0;
    match segments::read_all(dir, known, |_| lines += 1) {
        Ok(head) => Ok(Verified { lines, head: head.to_string() }),
        Err(error) => Err(broken(&error.to_string())),
    }
}

async fn verify(known: Option<Head>, operator: &OperatorArgs) -> Result<Verified, Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::VerifyAuditRequest { known_head: known.map(|head| head.to_string()).unwrap_or_default() };
    let answer = authority.call(async |client| client.verify_audit(request).await).await?;
    match answer.fault.as_str() {
        "" => Ok(Verified { lines: answer.lines, head: answer.head }),
        fault => Err(broken(fault)),
    }
}

fn broken(fault: &str) -> Failure {
    Failure::new(
        format!("the audit log is not as it was written: {fault}"),
        "keep the files as they are, compare them with a backup, and find out who can write to that directory",
    )
}

fn print_verified(verified: &Verified, format: Format) {
    let Verified { lines, head } = verified;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "lines": lines, "head": head })),
        Format::Table | Format::Yaml => println!("{lines} lines, none changed, removed or put in\nhead {head}"),
    }
}

/// Lines of the answer where no time is asked for.
const SHOWN: usize = 50;

struct Asked {
    last: Option<Duration>,
    what: Vec<What>,
    by: Option<String>,
}

impl Asked {
    fn holds(&self, entry: &Entry, now_ms: i64) -> bool {
        let since = self.last.map(|last| now_ms.saturating_sub(i64::try_from(last.as_millis()).unwrap_or(i64::MAX)));
        since.is_none_or(|since| entry.at.0 >= since)
            && (self.what.is_empty() || self.what.contains(&entry.event.what))
            && self.by.as_ref().is_none_or(|name| *name == entry.event.operator)
    }
}

/// The words of the log.
const WORDS: [&str; 21] = [
    "approval-asked",
    "approval-rejected",
    "approved",
    "authority",
    "bypass-ended",
    "bypassed",
    "changed",
    "confirmed",
    "enforced",
    "enrolled",
    "issued",
    "observed",
    "refused",
    "refused-more",
    "released",
    "renewed",
    "revoked",
    "rolled-back",
    "token-created",
    "token-revoked",
    "token-spent",
];

fn what(text: &str) -> Result<What, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| {
        let meant = nearest(text, &WORDS).map_or(":".to_owned(), |near| format!("; did you mean `{near}`?"));
        format!("`{text}` is no word of the log{meant} there are {}", WORDS.join(", "))
    })
}

async fn show(asked: Asked, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ExportAuditRequest { from_line: 1 };
    let mut stream = authority.call(async |client| client.export_audit(request).await).await?;
    let now_ms = SystemClock.now_ms();
    let mut shown: Vec<Entry> = Vec::new();
    while let Some(batch) = stream.message().await.map_err(|status| connect::refused(&status))? {
        // A line of a newer control plane may hold what this build does not know: `export` shows it.
        let entries = batch.lines.iter().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        shown.extend(entries.filter(|entry| asked.holds(entry, now_ms)));
        let more = if asked.last.is_none() { shown.len().saturating_sub(SHOWN) } else { 0 };
        drop(shown.drain(..more));
    }
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "lines": shown })),
        Format::Yaml => println!("{:#}", json!({ "lines": shown })),
        Format::Table if shown.is_empty() => println!("nothing on record matches"),
        Format::Table => {
            let head = ["LINE", "WHEN", "WHAT", "BY", "ON", "DETAILS"];
            print!("{}", table(&head, &shown.iter().map(row).collect::<Vec<_>>()));
        }
    }
    Ok(())
}

fn row(entry: &Entry) -> Vec<String> {
    let event = &entry.event;
    let word = |value: serde_json::Result<Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let at = word(serde_json::to_value(entry.at));
    let by = if event.operator.is_empty() { &event.proof } else { &event.operator };
    let on = if event.workload.is_empty() { &event.who } else { &event.workload };
    vec![
        entry.seq.to_string(),
        at.split('.').next().map(|seconds| format!("{seconds}Z")).unwrap_or_default(),
        word(serde_json::to_value(event.what)),
        or_dash(by),
        or_dash(on),
        or_dash(&event.reason),
    ]
}

async fn export(from: u64, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ExportAuditRequest { from_line: from };
    let mut stream = authority.call(async |client| client.export_audit(request).await).await?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut between = if format == Format::Json { "[\n" } else { "" };
    loop {
        let batch = stream.message().await.map_err(|status| connect::refused(&status))?;
        let Some(batch) = batch else { break };
        for line in batch.lines {
            write!(out, "{between}{line}").map_err(unwritten)?;
            between = if format == Format::Json { ",\n" } else { "\n" };
        }
    }
    let end = match (format, between) {
        (Format::Json, "[\n") => "[]\n",
        (Format::Json, _) => "\n]\n",
        (_, "") => "",
        (_, _) => "\n",
    };
    out.write_all(end.as_bytes()).and_then(|()| out.flush()).map_err(unwritten)
}

fn unwritten(error: io::Error) -> Failure {
    Failure::plain(format!("stdout: {error}"))
}

#[cfg(test)]
#[path = "audit_test.rs"]
mod audit_test;
