//! `isthmus bypass`: break-glass. Everything passes to a service for a while and is recorded; it is on the audit log before
//! it opens anything, shown wherever somebody looks, and ends by the proxies' own clocks, whoever is reachable then.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::policy::target::Target;
use crate::span;

/// Let everything through to a service for a limited time, on record; or show what is open.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus bypass shop/orders --for 30m --reason 'incident 4711'\n  \
    isthmus bypass                       what is open now\n  \
    isthmus bypass shop/orders --end     close it before its time\n\n\
    At most 24h. Identities are still checked between sidecars; what is not carried out are refusals by policy.")]
pub(crate) struct Args {
    /// SERVICE, NAMESPACE/SERVICE, or NAMESPACE for all of it.
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
    let target = Target::find(text, operator).await?;
    let text = target.name();
    let Target { namespace, service } = target;
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

/// What is open now, all over the mesh.
pub(crate) async fn open(policy: &mut Policy) -> Result<Vec<wire::ActiveBypass>, Failure> {
    Ok(policy.call(async |client| client.list_bypasses(wire::ListBypassesRequest {}).await).await?.bypasses)
}

/// Those that open a service, `<namespace>/<name>`.
pub(crate) fn of_service(open: &[wire::ActiveBypass], service: &str) -> Vec<wire::ActiveBypass> {
    let (namespace, name) = service.split_once('/').unwrap_or((service, ""));
    let holds = |bypass: &&wire::ActiveBypass| {
        bypass.namespace == namespace
            && (bypass.service.is_empty() || bypass.service.split(',').any(|bypassed| bypassed == name))
    };
    open.iter().filter(holds).cloned().collect()
}

/// `BYPASS shop/orders until … by ann: incident 4711`
pub(crate) fn text(bypass: &wire::ActiveBypass) -> String {
    let service = if bypass.service.is_empty() { "*" } else { &bypass.service };
    let reason = if bypass.reason.is_empty() { "no reason given" } else { &bypass.reason };
    let until = when(bypass.until_unix_ms);
    format!("BYPASS {}/{service} until {until} by {}: {reason}", bypass.namespace, bypass.operator)
}

pub(crate) fn json_of(all: &[wire::ActiveBypass]) -> Value {
    let one = |b: &wire::ActiveBypass| json!({ "namespace": b.namespace, "service": b.service, "untilUnixMs": b.until_unix_ms, "operator": b.operator, "reason": b.reason });
    all.iter().map(one).collect()
}

async fn show(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let open = open(&mut Policy::connect(operator).await?).await?;
    let row = |b: &wire::ActiveBypass| {
        let service = if b.service.is_empty() { "*" } else { &b.service };
        vec![format!("{}/{service}", b.namespace), when(b.until_unix_ms), b.operator.clone(), b.reason.clone()]
    };
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "bypasses": json_of(&open) })),
        Format::Yaml => println!("{:#}", json!({ "bypasses": json_of(&open) })),
        Format::Table if open.is_empty() => println!("nothing is bypassed"),
        Format::Table => {
            print!("{}", table(&["SERVICE", "UNTIL", "OPERATOR", "REASON"], &open.iter().map(row).collect::<Vec<_>>()));
        }
    }
    Ok(())
}
