//! `isthmus token`: single-use secrets that each let one workload enroll.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Admin};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, table, when};
use crate::span;

/// The control plane's own limit; beyond it a forgotten token is a back door.
const MAX_TTL: Duration = Duration::from_secs(7 * 86_400);

/// Make, list and revoke the tokens that let a workload join.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make a single-use token for one workload.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus token create shop/orders --out orders.token      a file, mode 0600\n  \
        isthmus token create shop/orders | ssh vm sudo isthmus join --token-file -")]
    Create {
        /// NAMESPACE/NAME of a Workload that is stored.
        #[arg(value_parser = workload)]
        workload: String,
        /// How long it may be used, at most 7d.
        #[arg(long, default_value = "1h", value_parser = ttl, value_name = "DURATION")]
        ttl: Duration,
        /// Write the token to a new file that only you can read, not to stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List tokens; the secrets themselves are not stored and cannot be shown again.
    #[command(after_help = "EXAMPLES:\n  isthmus token list\n  isthmus token list --json")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make an unused token worthless. A workload that has joined with it stays joined.
    #[command(after_help = "EXAMPLES:\n  isthmus token revoke 7f3a9c21")]
    Revoke {
        /// As `isthmus token list` shows it.
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    match args.what {
        What::Create { workload, ttl, out, output } => {
            let format = output.format();
            finish(connect::block_on(create(workload, ttl, out.as_deref(), format, operator)), format)
        }
        What::List { output } => finish(connect::block_on(list(output.format(), operator)), output.format()),
        What::Revoke { id, output } => {
            finish(connect::block_on(revoke(id, output.format(), operator)), output.format())
        }
    }
}

async fn create(
    workload: String,
    ttl: Duration,
    out: Option<&Path>,
    format: Format,
    operator: &OperatorArgs,
) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    // The file first: a token that nobody could write down would be lost, and lie around unused.
    let file = out.map(|path| private_file(path).map(|file| (path, file))).transpose()?;
    let request = wire::CreateJoinTokenRequest { workload: workload.clone(), ttl_seconds: ttl.as_secs() as u32 };
    let made = admin.call(async |client| client.create_join_token(request).await).await;
    let made = match (made, &file) {
        (Err(failure), Some((path, _))) => {
            // Best effort: the failure that matters is the control plane's.
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
        (made, _) => made?,
    };
    if let Some((path, mut file)) = file {
        writeln!(file, "{}", made.token).and_then(|()| file.sync_all()).map_err(|e| {
            let what = format!("{}: {e}; the token {} is lost", path.display(), made.id);
            Failure::new(what, format!("isthmus token revoke {}, then create another", made.id))
        })?;
    }
    print_created(&workload, &made, out, format);
    Ok(())
}

fn print_created(workload: &str, made: &wire::CreateJoinTokenResponse, out: Option<&Path>, format: Format) {
    let until = when(made.expires_unix_ms);
    match (format, out) {
        (Format::Json, out) => {
            let token = if out.is_some() { Value::Null } else { json!(made.token) };
            let file = out.map(|path| path.display().to_string());
            println!(
                "{}",
                json!({ "ok": true, "id": made.id, "workload": workload, "spiffeId": made.spiffe_id,
                        "expiresUnixMs": made.expires_unix_ms, "token": token, "file": file })
            );
        }
        (_, Some(path)) => {
            println!("token {} for {workload} ({}), once, until {until}", made.id, made.spiffe_id);
            println!("on the machine: sudo isthmus join --token-file {}", path.display());
        }
        // Only the token on stdout, so that it can be piped; the rest is for the person.
        (_, None) => {
            eprintln!("token {} for {workload} ({}), once, until {until}", made.id, made.spiffe_id);
            println!("{}", made.token);
        }
    }
}

/// Never an existing file: its mode and its readers are unknown.
fn private_file(path: &Path) -> Result<std::fs::File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::AlreadyExists => "remove it, or choose another name",
            _ => "choose a directory that you may write to",
        };
        Failure::new(format!("{}: {e}", path.display()), advice)
    })
}

async fn list(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let tokens = admin.call(async |client| client.list_join_tokens(wire::ListJoinTokensRequest {}).await).await?.tokens;
    if format == Format::Table {
        let row =
            |t: &wire::JoinToken| vec![t.id.clone(), t.workload.clone(), t.state.clone(), when(t.expires_unix_ms)];
        print!("{}", table(&["ID", "WORKLOAD", "STATE", "UNTIL"], &tokens.iter().map(row).collect::<Vec<_>>()));
        return Ok(());
    }
    let item = |t: &wire::JoinToken| {
        json!({ "id": t.id, "workload": t.workload, "spiffeId": t.spiffe_id, "state": t.state,
                "expiresUnixMs": t.expires_unix_ms })
    };
    println!("{}", json!({ "tokens": tokens.iter().map(item).collect::<Vec<_>>() }));
    Ok(())
}

async fn revoke(id: String, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::RevokeJoinTokenRequest { id: id.clone() };
    admin.call(async |client| client.revoke_join_token(request).await).await?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "id": id })),
        Format::Table | Format::Yaml => println!("token {id} revoked"),
    }
    Ok(())
}

fn workload(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(text.to_owned())
        }
        _ => Err("a workload is named NAMESPACE/NAME, such as shop/orders".to_owned()),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = span::parse(text)?;
    match ttl {
        _ if ttl > MAX_TTL => Err("at most 7d: a token is for one join, and a forgotten one is a back door".to_owned()),
        _ if ttl < Duration::from_secs(1) => Err("at least 1s".to_owned()),
        _ => Ok(ttl),
    }
}

#[cfg(test)]
#[path = "token_test.rs"]
mod token_test;
