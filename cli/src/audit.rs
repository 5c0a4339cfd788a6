//! `isthmus audit`: what was issued and refused, and whether anybody has touched the record.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use isthmus_control::audit::{Head, segments};
use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};

/// Check and read the record of every certificate that was issued or refused.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
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
    match args.what {
        What::Verify { head, dir, output } => {
            let format = output.format();
            let verified = match dir {
                Some(dir) => verify_files(&dir, head),
                None => connect::block_on(verify(head, operator)),
            };
            finish(verified.map(|verified| print_verified(&verified, format)), format)
        }
        What::Export { from, output } => {
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
