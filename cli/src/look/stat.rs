//! `isthmus stat`: rates, success and latencies over some seconds, as a table or JSON.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::look_event::Event;
use serde_json::{Value, json};

use super::rates::{By, Rates, Row};
use super::{asked, next};
use crate::connect;
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table};
use crate::span;

/// Show rates, success and latencies, measured now, over some seconds.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus stat                      every service, over 5 s\n  \
    isthmus stat shop --by edge       who calls whom from a namespace\n  \
    isthmus stat --by site --for 30s  what each site answers\n  \
    isthmus stat --json\n\n\
    SUCCESS: of the answers, those other than 5xx. LEFT: of the requests, those whose caller\n\
    did not wait for the answer; many of them are how a service looks that hangs.\n\
    Latencies end with the answer's head, or with the caller, as the callers' sidecars saw it.")]
pub(crate) struct Args {
    /// NAMESPACE/WORKLOAD, or NAMESPACE: whose proxies measure; by default all that you may see.
    of: Option<String>,
    #[arg(long, value_enum, default_value = "service", value_name = "WHAT")]
    by: By,
    /// How long to measure.
    #[arg(long = "for", value_parser = span::parse, default_value = "5s", value_name = "DURATION")]
    length: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(stat(args, format, operator)), format)
}

async fn stat(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    // A second more: each proxy has told at its beginning, and at its end.
    let length = args.length + Duration::from_millis(1_500);
    let lasts_seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX).saturating_add(2);
    let of = args.of.clone().unwrap_or_default();
    let mut events =
        connect::look(operator, wire::LookRequest { of, passing: None, edges: true, lasts_seconds }).await?;
    let mut rates = Rates::new(length);
    let until = tokio::time::sleep(length);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            event = next(&mut events) => match event? {
                None => break,
                Some(Event::Looking(looking)) => eprintln!("{}", asked(looking, args.of.as_deref())),
                Some(Event::Batch(batch)) => rates.take(batch, Instant::now()),
            },
        }
    }
    let rows = rates.rows(args.by);
    match format {
        Format::Json | Format::Yaml => {
            let rows: Vec<Value> = rows.iter().map(in_json).collect();
            println!(
                "{:#}",
                json!({ "proxies": rates.measured(), "seconds": args.length.as_secs_f64(), "rows": rows })
            );
        }
        Format::Table if rows.is_empty() => eprintln!("nothing has passed"),
        Format::Table => print!("{}", in_table(&rows)),
    }
    Ok(())
}

pub(super) const HEAD: [&str; 9] = ["", "REQ/S", "SUCCESS", "LEFT", "P50", "P95", "P99", "CONN/S", "BYTES/S"];

pub(super) fn cells(row: &Row) -> Vec<String> {
    let [p50, p95, p99] = match row.latency_us {
        Some(latency) => latency.map(milliseconds),
        None => ["-", "-", "-"].map(str::to_owned),
    };
    vec![
        row.name.clone(),
        format!("{:.1}", row.requests),
        percent(row.success),
        percent(row.left),
        p50,
        p95,
        p99,
        format!("{:.1}", row.connections),
        bytes(row.bytes),
    ]
}

fn in_table(rows: &[Row]) -> String {
    table(&HEAD, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1_000.0)
}

/// Of connections of bytes; requests are not measured by size.
fn bytes(per_second: f64) -> String {
    match per_second {
        none if none <= 0.0 => "-".to_owned(),
        few if few < 10_000.0 => format!("{few:.0}"),
        some if some < 10_000_000.0 => format!("{:.0} k", some / 1_000.0),
        many => format!("{:.0} M", many / 1_000_000.0),
    }
}

fn in_json(row: &Row) -> Value {
    json!({
        "name": row.name,
        "requestsPerSecond": row.requests,
        "success": row.success,
        "left": row.left,
        "p50Us": row.latency_us.map(|[p50, ..]| p50),
        "p95Us": row.latency_us.map(|[_, p95, _]| p95),
        "p99Us": row.latency_us.map(|[.., p99]| p99),
        "connectionsPerSecond": row.connections,
        "bytesPerSecond": row.bytes,
    })
}
