//! `isthmus tap`: requests and connections as they end.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::look_event::Event;
use isthmus_proto::live::v1::{Batch, Filter, Passed};
use serde_json::{Value, json};

use super::{asked, next};
use crate::connect;
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash};
use crate::span;

/// Show requests and connections as they end. Headers, queries and bodies are never shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus tap shop/orders-vm                    what ends at one workload\n  \
    isthmus tap shop --status 5xx --path /orders  failures under a path, in a namespace\n  \
    isthmus tap --reason '*' --json               every refusal, for a pipeline\n\n\
    A proxy tells at most --rate a second; what is left out is counted on stderr. Ends with Ctrl-C, or after --for.")]
pub(crate) struct Args {
    /// NAMESPACE/WORKLOAD, or NAMESPACE for all of it; by default all that you may see.
    of: Option<String>,
    /// Only `inbound` (at the callee) or `outbound` (at the caller).
    #[arg(long, value_parser = ["inbound", "outbound"], value_name = "DIRECTION")]
    direction: Option<String>,
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// What the path begins with.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// A status (404), a class (5xx), or 0 where no answer came.
    #[arg(long, value_parser = status, value_name = "STATUS")]
    status: Option<(u32, u32)>,
    /// Only refusals for this reason; `*`: every refusal.
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// What the caller's identity or the callee ends with, such as `sa/web` or `shop/orders`.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The most that one proxy tells in a second; at most 1000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    rate: u32,
    /// Ends after this; at most 1h.
    #[arg(long = "for", value_parser = span::parse, default_value = "10m", value_name = "DURATION")]
    length: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(tap(args, format, operator)), format)
}

async fn tap(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let (of, lasts_seconds) = (args.of.clone(), u32::try_from(args.length.as_secs()).unwrap_or(u32::MAX).max(1));
    let request = wire::LookRequest {
        of: of.clone().unwrap_or_default(),
        passing: Some(filter(args)),
        edges: false,
        lasts_seconds,
    };
    let mut events = connect::look(operator, request).await?;
    let mut left_out = std::collections::BTreeMap::new();
    while let Some(event) = next(&mut events).await? {
        match event {
            Event::Looking(looking) => eprintln!("{}", asked(looking, of.as_deref())),
            Event::Batch(Batch { workload, passed, dropped, .. }) => {
                passed.iter().for_each(|passed| show(passed, &workload, format));
                if left_out.insert(workload.clone(), dropped).unwrap_or(0) != dropped {
                    eprintln!("{workload}: {dropped} left out so far (--rate)");
                }
            }
        }
    }
    Ok(())
}

fn filter(args: Args) -> Filter {
    let (status_from, status_to) = match args.status {
        // 0 to 0 would mean any; nobody answers with 1.
        Some((0, 0)) => (0, 1),
        status => status.unwrap_or_default(),
    };
    Filter {
        direction: args.direction.unwrap_or_default(),
        method: args.method.unwrap_or_default(),
        path: args.path.unwrap_or_default(),
        status_from,
        status_to,
        reason: args.reason.unwrap_or_default(),
        peer: args.peer.unwrap_or_default(),
        port: args.port.unwrap_or_default().into(),
        most_per_second: args.rate,
    }
}

fn status(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is no status; write one such as 404, a class such as 5xx, or 0");
    if let Some(class) = text.strip_suffix("xx") {
        let class: u32 = class.parse().ok().filter(|class| (1..=5).contains(class)).ok_or_else(wrong)?;
        return Ok((class * 100, class * 100 + 99));
    }
    let status = text.parse().ok().filter(|status| *status == 0 || (100..=599).contains(status)).ok_or_else(wrong)?;
    Ok((status, status))
}

fn show(passed: &Passed, workload: &str, format: Format) {
    match format {
        Format::Json | Format::Yaml => println!("{}", in_json(passed, workload)),
        Format::Table => println!("{}", in_words(passed)),
    }
}

/// One line, the columns that a person looks for first.
fn in_words(passed: &Passed) -> String {
    let at =
        jiff::Timestamp::from_millisecond(passed.at_unix_ms).unwrap_or_default().strftime("%H:%M:%S%.3f").to_string();
    // `ns/shop/sa/web` says all that differs between identities of one mesh.
    let caller =
        passed.caller.split_once("/ns/").map_or(passed.caller.as_str(), |(_, rest)| rest).replacen("/sa/", "/", 1);
    let what = match passed.protocol.as_str() {
        "http" => format!("{} {} {}", passed.method, or_dash(&passed.path), status_in_words(passed.status)),
        protocol => format!("{protocol} {} B to, {} B from", passed.to_callee, passed.from_callee),
    };
    let mut line = format!(
        "{at} {:<8} {caller} -> {}:{} {what} {}",
        passed.direction,
        passed.callee,
        passed.port,
        span::show_us(passed.duration_us)
    );
    if passed.link_us > 0 {
        line += &format!(" (link {}, app {})", span::show_us(passed.link_us), span::show_us(passed.app_us));
    } else if passed.app_us > 0 {
        line += &format!(" (app {})", span::show_us(passed.app_us));
    }
    for (name, value) in [("reason", &passed.reason), ("decision", &passed.decision), ("trace", &passed.trace_id)] {
        if !value.is_empty() {
            line += &format!(" {name}={value}");
        }
    }
    line
}

fn status_in_words(status: u32) -> String {
    if status == 0 { "no answer".to_owned() } else { status.to_string() }
}

fn in_json(passed: &Passed, workload: &str) -> Value {
    json!({
        "proxy": workload,
        "atUnixMs": passed.at_unix_ms,
        "direction": passed.direction,
        "caller": passed.caller,
        "callee": passed.callee,
        "port": passed.port,
        "protocol": passed.protocol,
        "transport": passed.transport,
        "method": passed.method,
        "host": passed.host,
        "path": passed.path,
        "status": passed.status,
        "durationUs": passed.duration_us,
        "linkUs": passed.link_us,
        "appUs": passed.app_us,
        "bytesToCallee": passed.to_callee,
        "bytesFromCallee": passed.from_callee,
        "reason": passed.reason,
        "decision": passed.decision,
        "traceId": passed.trace_id,
        "site": passed.site,
    })
}

#[cfg(test)]
#[path = "tap_test.rs"]
mod tap_test;
