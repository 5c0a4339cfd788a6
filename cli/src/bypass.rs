//! `isthmus bypass`: break-glass. Everything passes to a service for a while and is recorded; it is on the audit log before
//! it opens anything, shown wherever somebody looks, and ends by the proxies' own clocks, whoever is reachable then.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::policy::flows::Target;
use crate::span;

/// Let everything through to a service for a limited time, on record; or show what is open.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus bypass shop/orders --for 30m --reason 'incident 4711'\n  \
    isthmus bypass                       what is open now\n  \
    isthmus bypass shop/orders --end     close it before its time\n\n\
    At most 24h. Identities are still checked between sidecars; what is not carried out are refusals by policy.")]
pub(crate) struct Args {
    /// NAMESPACE/SERVICE, or NAMESPACE for all of it.
    target: Option<String>,
    /// How long.
    #[arg(long = "for", value_parser = span::parse, value_name = "DURATION", requires = "target")]
    length: Option<Duration>,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Close it now.
    #[arg(long, conflicts_with = "length", requires = "target")]
    end: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(bypass(args, format, operator)), format)
}

async fn bypass(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let Some(text) = &args.target else { return show(format, operator).await };
    let seconds = match (args.length, args.end) {
        (Some(length), _) => u32::try_from(length.as_secs()).unwrap_or(u32::MAX).max(1),
        (None, true) => 0,
        (None, false) => return Err(Failure::usage("for how long?", "say --for 30m, or --end")),
    };
    let Target { namespace, service } = Target::parse(text);
    let request = wire::BypassRequest { namespace, service, seconds, reason: args.reason };
    let mut policy = Policy::connect(operator).await?;
    let answer = policy.call(async |client| client.bypass(request).await).await?;
    let wire::BypassResponse { revision, until_unix_ms } = answer;
    match (format, seconds) {
        (Format::Json, _) => {
            println!(
                "{}",
                json!({ "ok": true, "target": text, "revision": revision, "open": seconds > 0, "untilUnixMs": until_unix_ms })
            );
        }
        (_, 0) => println!("{text} is closed again"),
        _ => println!("{text} is open until {}; everything that passes is recorded", when(until_unix_ms)),
    }
    Ok(())
}

async fn show(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let open = policy.call(async |client| client.list_bypasses(wire::ListBypassesRequest {}).await).await?.bypasses;
    let one = |b: &wire::ActiveBypass| json!({ "namespace": b.namespace, "service": b.service, "untilUnixMs": b.until_unix_ms, "operator": b.operator, "reason": b.reason });
    let row = |b: &wire::ActiveBypass| {
        let service = if b.service.is_empty() { "*" } else { &b.service };
        vec![format!("{}/{service}", b.namespace), when(b.until_unix_ms), b.operator.clone(), b.reason.clone()]
    };
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "bypasses": open.iter().map(one).collect::<Vec<_>>() })),
        Format::Yaml => println!("{:#}", json!({ "bypasses": open.iter().map(one).collect::<Vec<_>>() })),
        Format::Table if open.is_empty() => println!("nothing is bypassed"),
        Format::Table => {
            print!("{}", table(&["SERVICE", "UNTIL", "OPERATOR", "REASON"], &open.iter().map(row).collect::<Vec<_>>()));
        }
    }
    Ok(())
}
