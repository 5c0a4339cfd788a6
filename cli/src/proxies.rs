//! `isthmus proxies`, or `isthmus get proxies`: who is connected, and what is not yet in force where, since when and why.

use std::process::ExitCode;
use std::time::Duration;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::bypass;
use crate::connect::{self, Admin, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};

/// Show the proxies: what was sent, what is in force, how far behind each is, and what it refused.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  isthmus proxies\n  isthmus proxies shop/vm-7 --json")]
pub(crate) struct Args {
    /// NAMESPACE/NAME of a workload.
    name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(show(args.name.as_deref(), operator, format)), format)
}

pub(crate) async fn show(name: Option<&str>, operator: &OperatorArgs, format: Format) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let answer = admin.call(async |client| client.list_proxies(wire::ListProxiesRequest {}).await).await?;
    answer.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let (mut proxies, warnings) = (answer.proxies, answer.warnings);
    if let Some(name) = name {
        proxies.retain(|proxy| proxy.workload == name);
        if proxies.is_empty() {
            let what = format!("no proxy of workload {name} has ever connected");
            return Err(Failure::new(what, "name it NAMESPACE/NAME, as `isthmus get proxies` does"));
        }
    }
    let open = bypass::open(&mut Policy::connect(operator).await?).await?;
    if format == Format::Table {
        open.iter().for_each(|open| println!("{}", bypass::text(open)));
    }
    let answer = || {
        let proxies: Vec<_> = proxies.iter().map(proxy_json).collect();
        json!({ "proxies": proxies, "bypasses": bypass::json_of(&open), "warnings": warnings })
    };
    match format {
        Format::Json => println!("{}", answer()),
        // JSON is YAML; proxies are no resources and have no document to show.
        Format::Yaml => println!("{:#}", answer()),
        Format::Table if proxies.is_empty() => {
            eprintln!("no proxy has connected yet; `isthmus token create` lets one join")
        }
        Format::Table => print!("{}", proxies_table(&proxies)),
    }
    Ok(())
}

fn proxies_table(proxies: &[wire::Proxy]) -> String {
    // Where one control plane serves the mesh, its name says nothing.
    let several = proxies.iter().any(|proxy| !proxy.replica.is_empty());
    let row = |proxy: &wire::Proxy| {
        let mut row = vec![proxy.workload.clone(), state(proxy).to_owned()];
        row.extend(several.then(|| or_dash(&proxy.replica)));
        row.extend([
            or_dash(&proxy.build_version),
            format!("{}/{}", proxy.acknowledged_version, proxy.sent_version),
            lag(proxy),
            when(proxy.last_seen_unix_ms),
            when(proxy.certificate_not_after_unix_ms),
            or_dash(&proxy.last_error),
        ]);
        row
    };
    let rows: Vec<_> = proxies.iter().map(row).collect();
    let mut head = vec!["WORKLOAD", "STATE"];
    head.extend(several.then_some("AT"));
    head.extend(["BUILD", "ACK/SENT", "BEHIND", "LAST SEEN", "CERTIFICATE UNTIL", "ERROR"]);
    table(&head, &rows)
}

fn state(proxy: &wire::Proxy) -> &'static str {
    match (proxy.connected, proxy.behind_ms) {
        (false, _) => "offline",
        (true, _) if proxy.refused_version > proxy.acknowledged_version => "refused",
        (true, 0) => "in force",
        (true, _) => "behind",
    }
}

/// For how long something has not been in force there.
fn lag(proxy: &wire::Proxy) -> String {
    match (proxy.connected, proxy.behind_ms) {
        (false, _) | (_, 0) => "-".to_owned(),
        (true, ms) => format!("{:.1?}", Duration::from_millis(ms)),
    }
}

pub(crate) fn proxy_json(proxy: &wire::Proxy) -> Value {
    json!({
        "workload": proxy.workload,
        "replica": proxy.replica,
        "spiffeId": proxy.spiffe_id,
        "buildVersion": proxy.build_version,
        "connected": proxy.connected,
        "sentVersion": proxy.sent_version,
        "acknowledgedVersion": proxy.acknowledged_version,
        "refusedVersion": proxy.refused_version,
        "behindMs": proxy.behind_ms,
        "lastError": proxy.last_error,
        "lastSeenUnixMs": proxy.last_seen_unix_ms,
        "certificateSerial": proxy.certificate_serial,
        "certificateNotAfterUnixMs": proxy.certificate_not_after_unix_ms,
    })
}
