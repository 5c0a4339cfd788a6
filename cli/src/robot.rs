//! `isthmus robot` and `isthmus invite`: the tokens that let pipelines and persons in.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Access};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};
use crate::span;

/// Make, list and revoke the tokens of pipelines.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make a token for a pipeline: good for one role, until it ends or is revoked.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus robot create ci --role policy-editor -n shop --out ci.token\n  \
        isthmus robot create pull-requests --role viewer --ttl 30d | gh secret set ISTHMUS_OPERATOR_TOKEN\n\n\
        In the pipeline, `isthmus login` exchanges it for a certificate that lives an hour.")]
    Create {
        /// The robot's name; OperatorRoles and the audit log know it as robot.NAME.
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: Role,
        /// In which namespaces. Without it: in the whole mesh, which policy-editor may not be.
        #[arg(short, long = "namespace", value_name = "NAMESPACE")]
        namespaces: Vec<String>,
        /// How long the token is good for, at most 366d.
        #[arg(long, default_value = "90d", value_parser = span::parse, value_name = "DURATION")]
        ttl: Duration,
        /// Write the token to a new file that only you can read, not to stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List robots' tokens and invitations; the secrets are not stored and cannot be shown again.
    #[command(after_help = "EXAMPLES:\n  isthmus robot list\n  isthmus robot list --json")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a token worthless, and with it every certificate that it has given out.
    #[command(after_help = "EXAMPLES:\n  isthmus robot revoke 7f3a9c2100aa41de")]
    Revoke {
        /// As `isthmus robot list` shows it.
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Invite a person: a token that makes one operator's certificate, once. What he may do, OperatorRoles say.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "EXAMPLES:\n  isthmus invite bob --out bob.token\n  isthmus login --token-file bob.token    on bob's machine"
)]
pub(crate) struct Invite {
    /// As OperatorRoles and the audit log will name him.
    name: String,
    /// How long the invitation is good for, at most 7d.
    #[arg(long, default_value = "1d", value_parser = span::parse, value_name = "DURATION")]
    ttl: Duration,
    /// Write the token to a new file that only you can read, not to stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Viewer,
    PolicyEditor,
    Admin,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    match args.what {
        What::Create { name, role, namespaces, ttl, out, output } => {
            let role = match role {
                Role::Viewer => "viewer",
                Role::PolicyEditor => "policy-editor",
                Role::Admin => "admin",
            };
            let request =
                wire::CreateAccessTokenRequest { name, role: role.to_owned(), namespaces, ttl_seconds: seconds(ttl) };
            let format = output.format();
            finish(connect::block_on(create(request, out.as_deref(), format, operator)), format)
        }
        What::List { output } => finish(connect::block_on(list(output.format(), operator)), output.format()),
        What::Revoke { id, output } => {
            finish(connect::block_on(revoke(id, output.format(), operator)), output.format())
        }
    }
}

pub(crate) fn run_invite(args: Invite, operator: &OperatorArgs) -> ExitCode {
    let Invite { name, ttl, out, output } = args;
    let request = wire::CreateAccessTokenRequest { name, ttl_seconds: seconds(ttl), ..Default::default() };
    let format = output.format();
    finish(connect::block_on(create(request, out.as_deref(), format, operator)), format)
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
}

async fn create(
    request: wire::CreateAccessTokenRequest,
    out: Option<&Path>,
    format: Format,
    operator: &OperatorArgs,
) -> Result<(), Failure> {
    // The file first: a token that cannot be kept is not made.
    let mut file = out.map(private_file).transpose()?;
    let made = async {
        let mut access = Access::connect(operator).await?;
        access.call(async |client| client.create_access_token(request).await).await
    };
    let made = made.await.inspect_err(|_| {
        // It is empty, and in the way of the next try.
        out.map(std::fs::remove_file);
    })?;
    let created = made.created.unwrap_or_default();
    if let (Some(file), Some(path)) = (&mut file, out) {
        file.write_all(format!("{}\n", made.token).as_bytes()).and_then(|()| file.sync_all()).map_err(|e| {
            let what = format!("{}: {e}; the token {} is lost", path.display(), created.id);
            Failure::new(what, format!("isthmus robot revoke {}, then create another", created.id))
        })?;
    }
    if format == Format::Json {
        let mut answer = shown(&created);
        answer["ok"] = json!(true);
        answer["token"] = if out.is_some() { Value::Null } else { json!(made.token) };
        answer["file"] = json!(out.map(|path| path.display().to_string()));
        println!("{answer}");
        return Ok(());
    }
    let until = when(created.expires_unix_ms);
    let said = format!("token {} for {} ({}), until {until}", created.id, created.operator, what_for(&created));
    match out {
        Some(path) => println!("{said}\nthere: isthmus login --token-file {}", path.display()),
        // Only the token on stdout, so that it can be piped; the rest is for the person.
        None => {
            eprintln!("{said}");
            println!("{}", made.token);
        }
    }
    Ok(())
}

fn what_for(token: &wire::AccessToken) -> String {
    match (token.role.as_str(), token.namespaces.as_slice()) {
        ("", _) => "once".to_owned(),
        (role, []) => role.to_owned(),
        (role, some) => format!("{role} of {}", some.join(", ")),
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

fn shown(token: &wire::AccessToken) -> Value {
    json!({ "id": token.id, "operator": token.operator, "role": token.role, "namespaces": token.namespaces,
            "state": token.state, "expiresUnixMs": token.expires_unix_ms, "createdBy": token.created_by,
            "lastUsedUnixMs": token.last_used_unix_ms })
}

async fn list(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut access = Access::connect(operator).await?;
    let answer = access.call(async |client| client.list_access_tokens(wire::ListAccessTokensRequest {}).await).await?;
    if format != Format::Table {
        println!("{}", json!({ "tokens": answer.tokens.iter().map(shown).collect::<Vec<_>>() }));
        return Ok(());
    }
    let row = |t: &wire::AccessToken| {
        vec![
            t.id.clone(),
            t.operator.clone(),
            or_dash(&t.role),
            or_dash(&t.namespaces.join(",")),
            t.state.clone(),
            when(t.expires_unix_ms),
            when(t.last_used_unix_ms),
            t.created_by.clone(),
        ]
    };
    let head = ["ID", "OPERATOR", "ROLE", "NAMESPACES", "STATE", "UNTIL", "LAST USED", "BY"];
    print!("{}", table(&head, &answer.tokens.iter().map(row).collect::<Vec<_>>()));
    Ok(())
}

async fn revoke(id: String, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut access = Access::connect(operator).await?;
    let request = wire::RevokeAccessTokenRequest { id: id.clone() };
    access.call(async |client| client.revoke_access_token(request).await).await?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "id": id })),
        Format::Table | Format::Yaml => println!("token {id} revoked; certificates that it gave out are worth nothing"),
    }
    Ok(())
}
