//! `isthmus certs`: every workload's certificate, when it ends and is renewed, the roots; trouble first.

use std::process::ExitCode;

use isthmus_certs::span_in_words;
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};

/// Show every certificate in use, trouble first: its chain (SERIAL, by ISSUER, up to ROOT), its end, its next renewal.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "EXAMPLES:\n  isthmus certs\n  isthmus certs --trouble     only what needs somebody\n  isthmus certs --json"
)]
pub(crate) struct Args {
    /// Only certificates that something is wrong with.
    #[arg(long)]
    trouble: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(show(args.trouble, format, operator)), format)
}

async fn show(trouble: bool, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ListCertificatesRequest {};
    let mut listed = authority.call(async |client| client.list_certificates(request).await).await?;
    if trouble {
        listed.certificates.retain(|certificate| !certificate.troubles.is_empty());
    }
    match format {
        Format::Json => println!("{}", all_json(&listed)),
        Format::Yaml => println!("{:#}", all_json(&listed)),
        Format::Table => print!("{}", all_text(&listed)),
    }
    Ok(())
}

fn all_text(listed: &wire::ListCertificatesResponse) -> String {
    let now = listed.server_time_unix_ms;
    let row = |c: &wire::Certificate| {
        let name = if c.workload.is_empty() { short_id(&c.spiffe_id) } else { c.workload.clone() };
        vec![
            name,
            c.serial.clone(),
            left(c.not_after_unix_ms, now),
            if c.renewal_unix_ms == 0 { "-".to_owned() } else { renewal(c.renewal_unix_ms, now) },
            or_dash(&c.issuer.chars().take(8).collect::<String>()),
            c.root.chars().take(8).collect(),
            or_dash(&c.troubles.join("; ")),
        ]
    };
    let rows: Vec<_> = listed.certificates.iter().map(row).collect();
    format!(
        "{}\n{}\n{}\n",
        table(&["HOLDER", "SERIAL", "ENDS IN", "RENEWS IN", "ISSUER", "ROOT", "TROUBLE"], &rows),
        roots_text(&listed.roots),
        listed.crypto_profile
    )
}

pub(crate) fn roots_text(roots: &[wire::Root]) -> String {
    let row = |root: &wire::Root| {
        let key = if root.self_rooted { "ours" } else { "the company's" };
        vec![
            root.fingerprint.chars().take(8).collect(),
            root.role.clone(),
            key.to_owned(),
            when(root.not_after_unix_ms),
            when(root.issuing_not_after_unix_ms),
        ]
    };
    table(&["ROOT", "ROLE", "KEY", "UNTIL", "ISSUING CA UNTIL"], &roots.iter().map(row).collect::<Vec<_>>())
}

/// `isthmus-system/control`, as workloads are named.
fn short_id(id: &str) -> String {
    let parts: Vec<&str> = id.split('/').collect();
    match parts[..] {
        [_, _, _, "ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => id.to_owned(),
    }
}

fn left(at: i64, now: i64) -> String {
    if at < now { "ended".to_owned() } else { span_in_words((at - now).unsigned_abs()) }
}

/// Half of the life has passed, and within a tenth of it a renewal is due.
fn renewal(at: i64, now: i64) -> String {
    if at < now { "due".to_owned() } else { span_in_words((at - now).unsigned_abs()) }
}

pub(crate) fn all_json(listed: &wire::ListCertificatesResponse) -> Value {
    let certificate = |c: &wire::Certificate| {
        json!({
            "spiffeId": c.spiffe_id, "workload": c.workload, "serial": c.serial, "issuer": c.issuer, "root": c.root, "proof": c.proof,
            "issuedUnixMs": c.issued_unix_ms, "notAfterUnixMs": c.not_after_unix_ms, "renewalUnixMs": c.renewal_unix_ms,
            "connected": c.connected, "lastSeenUnixMs": c.last_seen_unix_ms, "clockSkewMs": c.clock_skew_ms,
            "troubles": c.troubles,
        })
    };
    let certificates: Vec<_> = listed.certificates.iter().map(certificate).collect();
    json!({ "certificates": certificates, "roots": roots_json(&listed.roots), "cryptoProfile": listed.crypto_profile })
}

pub(crate) fn roots_json(roots: &[wire::Root]) -> Value {
    let root = |root: &wire::Root| {
        json!({
            "fingerprint": root.fingerprint, "role": root.role, "selfRooted": root.self_rooted,
            "notAfterUnixMs": root.not_after_unix_ms, "issuingNotAfterUnixMs": root.issuing_not_after_unix_ms,
        })
    };
    roots.iter().map(root).collect()
}

#[cfg(test)]
#[path = "certs_test.rs"]
mod certs_test;
