//! `isthmus identity`: who must not be let in any more.

use std::process::ExitCode;

use clap::Subcommand;
use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};

/// Revoke certificates and identities.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Refuse a certificate, or all that an identity was issued until now: everywhere, at once and for ever.
    ///
    /// New handshakes are refused and open connections end as soon as a proxy has been told. A revoked identity comes back
    /// only by a join token that is made afterwards.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus identity revoke --serial 4f0a…                 one certificate, as `isthmus certs` shows it\n  \
        isthmus identity revoke --id spiffe://shop.example/ns/shop/sa/db --reason 'VM stolen'")]
    Revoke {
        /// A certificate's serial number, hex.
        #[arg(long, value_name = "SERIAL", required_unless_present = "id", conflicts_with = "id")]
        serial: Option<String>,
        /// A SPIFFE id.
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// For the record.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Let a workload that enrolled by a certificate enrol once more with another key, because its machine lost the first.
    #[command(after_help = "EXAMPLES:\n  isthmus identity release shop/orders")]
    Release {
        /// NAMESPACE/NAME of the Workload.
        workload: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List what was ever revoked.
    #[command(after_help = "EXAMPLES:\n  isthmus identity revocations\n  isthmus identity revocations --json")]
    Revocations {
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    match args.what {
        What::Revoke { serial, id, reason, output } => {
            let request =
                wire::RevokeRequest { serial: serial.unwrap_or_default(), spiffe_id: id.unwrap_or_default(), reason };
            finish(connect::block_on(revoke(request, output.format(), operator)), output.format())
        }
        What::Release { workload, output } => {
            finish(connect::block_on(release(workload, output.format(), operator)), output.format())
        }
        What::Revocations { output } => finish(connect::block_on(list(output.format(), operator)), output.format()),
    }
}

async fn revoke(request: wire::RevokeRequest, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let name = if request.serial.is_empty() { request.spiffe_id.clone() } else { request.serial.clone() };
    let done = authority.call(async |client| client.revoke(request).await).await?;
    match format {
        Format::Json => println!(
            "{}",
            json!({ "ok": true, "epoch": done.epoch, "revision": done.revision, "serials": done.serials })
        ),
        Format::Table | Format::Yaml => {
            println!(
                "{name} revoked (revision {}); certificates in use that this ends: {}",
                done.revision,
                done.serials.len()
            );
            println!("who has been told: isthmus get proxies");
        }
    }
    Ok(())
}

async fn release(workload: String, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ReleaseRequest { workload: workload.clone() };
    authority.call(async |client| client.release(request).await).await?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "workload": workload })),
        Format::Table | Format::Yaml => println!("{workload} may enrol once more, with another key"),
    }
    Ok(())
}

async fn list(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ListRevocationsRequest {};
    let revocations = authority.call(async |client| client.list_revocations(request).await).await?.revocations;
    if format == Format::Table {
        let row = |r: &wire::Revocation| {
            let what = if r.serial.is_empty() { &r.spiffe_id } else { &r.serial };
            vec![what.clone(), when(r.at_unix_ms), or_dash(&r.operator), or_dash(&r.reason)]
        };
        print!("{}", table(&["REVOKED", "AT", "BY", "REASON"], &revocations.iter().map(row).collect::<Vec<_>>()));
        return Ok(());
    }
    let item = |r: &wire::Revocation| {
        json!({ "serial": r.serial, "spiffeId": r.spiffe_id, "atUnixMs": r.at_unix_ms, "operator": r.operator,
                "reason": r.reason, "epoch": r.epoch })
    };
    println!("{}", json!({ "revocations": revocations.iter().map(item).collect::<Vec<_>>() }));
    Ok(())
}
