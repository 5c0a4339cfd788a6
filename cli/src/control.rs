//! `isthmus control`: the daemon, and what is done to its state on its own host: backup and restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use isthmus_certs::private_file;
use isthmus_control::Config;
use isthmus_control::backup::{self, Archive, BackupError};
use isthmus_control::store::{Dump, EmbeddedStore, Store, Wrap, open};
use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, when};

const OPERATOR_FILE: &str = "operator.yaml";
/// A dump of the design size takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Run the control plane, or back it up.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
// Its name is its group's, and the one of what is flattened is `Args`.
pub(crate) struct ControlArgs {
    #[command(flatten)]
    run: isthmus_control::Args,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Write everything that a control plane is into one file: store, CA, audit log. It may run meanwhile.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus control backup /backup/control-$(date +%F)\n  \
        isthmus control backup control.backup --passphrase-file /etc/isthmus/backup.key\n\n\
        The file is as secret as the state directory. Run it on the control plane's host.")]
    Backup(BackupArgs),
    /// Make a backup the state of this host's control plane, which must not run.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus control restore control.backup\n  \
        isthmus control restore control.backup --force    put the store that is there aside\n\n\
        Nobody who is revoked on this host comes back, and no join token that may have been used: unused ones are revoked\n\
        where the audit log of this host is lost.")]
    Restore(RestoreArgs),
}

#[derive(clap::Args, Debug)]
struct Common {
    /// The control plane's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/isthmus/control.yaml")]
    config: PathBuf,
    /// Seals the backup, or opens a sealed one. Mode 0600.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args, Debug)]
struct BackupArgs {
    /// Must not be there yet.
    file: PathBuf,
    /// Do not seal it, although the store is encrypted.
    #[arg(long, conflicts_with = "passphrase_file")]
    plain: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct RestoreArgs {
    file: PathBuf,
    /// Also where there is a store: it is put aside.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(args: ControlArgs) -> ExitCode {
    match args.what {
        None => {
            isthmus_proxy::return_idle_memory();
            isthmus_control::run_blocking(&args.run)
        }
        Some(What::Backup(args)) => {
            let format = args.common.output.format();
            finish(take(&args), format)
        }
        Some(What::Restore(args)) => {
            let format = args.common.output.format();
            finish(restore(&args), format)
        }
    }
}

impl Common {
    fn config(&self) -> Result<Config, Failure> {
        Config::load(&self.config)
            .map_err(|e| Failure::new(e.to_string(), "name the control plane's own with --config"))
    }

    fn seal(&self) -> Result<Option<Wrap>, Failure> {
        let opened = self.passphrase_file.as_deref().map(Wrap::passphrase).transpose();
        opened.map_err(|e| Failure::new(e, "a file of at least 12 bytes, mode 0600"))
    }
}

fn take(args: &BackupArgs) -> Result<(), Failure> {
    let config = args.common.config()?;
    let seal = args.common.seal()?;
    if config.store.encryption.is_some() && seal.is_none() && !args.plain {
        let what = "the store is encrypted, and the backup would not be";
        return Err(Failure::usage(what, "--passphrase-file FILE seals it, --plain leaves it readable"));
    }
    if args.file.exists() {
        return Err(Failure::new(format!("{} is there already", args.file.display()), "name another file"));
    }
    let dump = dump(&config)?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let archive = backup::take(&config, dump, now_ms).map_err(failed)?;
    let bytes = archive.write(seal.as_ref()).map_err(failed)?;
    // What was written is read again: a backup that cannot be read is none.
    Archive::read("what was written", &bytes, seal.as_ref()).map_err(failed)?;
    write(&args.file, &bytes)?;
    let (revision, resources, files) = (archive.header.revision, archive.dump.resources.len(), archive.files.len());
    match args.common.output.format() {
        Format::Json => println!(
            "{}",
            json!({ "file": args.file, "revision": revision, "resources": resources, "files": files,
                "bytes": bytes.len(), "sealed": seal.is_some() })
        ),
        _ => println!(
            "{}: revision {revision}, {resources} resources, {files} files of CA and audit log{}",
            args.file.display(),
            if seal.is_some() { ", sealed" } else { "; keep it as secret as the state directory" }
        ),
    }
    Ok(())
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::usage(format!("{} names no file", file.display()), "name a file"))?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    private_file::replace(dir, name, bytes)
        .map_err(|e| Failure::new(format!("{}: {e}", file.display()), "space, and the right to write there"))
}

/// From the control plane if it runs, else from its store.
fn dump(config: &Config) -> Result<Dump, Failure> {
    if let Some(etcd) = &config.store.etcd {
        let store = open::codec(config).and_then(|codec| open::apart(etcd, codec));
        return store.and_then(|store| store.dump()).map_err(|e| failed(e.into()));
    }
    let file = open::file(&config.state_dir);
    if !file.exists() {
        let what = format!("{}: there is no store", file.display());
        return Err(Failure::new(what, "run it on the control plane's host, as its user or root"));
    }
    let closed = open::codec(config).and_then(|codec| EmbeddedStore::open_with(&file, codec));
    match closed {
        Ok(store) => store.dump().map_err(|e| failed(e.into())),
        // In use: then the control plane runs, and is asked.
        Err(closed) => connect::block_on(asked(&config.state_dir))
            .map_err(|asked| asked.with_advice(&format!("the store itself could not be read either: {closed}"))),
    }
}

async fn asked(state_dir: &Path) -> Result<Dump, Failure> {
    let operator = Some(state_dir.join(OPERATOR_FILE));
    let args = OperatorArgs { operator, context: None, address: None, request_timeout: PATIENCE };
    let mut authority = Authority::connect(&args).await?;
    let mut parts = authority.call(async |client| client.dump_store(wire::DumpStoreRequest {}).await).await?;
    let mut json = Vec::new();
    while let Some(part) = parts.message().await.map_err(|status| connect::refused(&status))? {
        json.extend(part.json);
    }
    serde_json::from_slice(&json).map_err(|e| Failure::plain(format!("the control plane's answer: {e}")))
}

fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let config = args.common.config()?;
    let name = args.file.display().to_string();
    let bytes = fs::read(&args.file).map_err(|e| Failure::plain(format!("{name}: {e}")))?;
    let archive = Archive::read(&name, &bytes, args.common.seal()?.as_ref()).map_err(failed)?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let done = backup::restore(&config, &archive, args.force, now_ms).map_err(failed)?;
    if args.common.output.format() == Format::Json {
        let answer = json!({ "revision": done.revision, "resources": done.resources, "files": done.files,
            "former": done.former, "tokensRevoked": done.tokens_revoked, "auditGoesOn": done.audit_goes_on,
            "takenUnixMs": archive.header.taken_unix_ms });
        println!("{answer}");
        return Ok(());
    }
    let taken = when(archive.header.taken_unix_ms);
    println!("back to {taken}: {} resources, which are revision {} from now on", done.resources, done.revision);
    if let Some(former) = &done.former {
        println!("the store that was there is {}", former.display());
    }
    match done.audit_goes_on {
        true => println!("what was revoked or used up since is taken from this host's audit log at the next start"),
        false => println!(
            "this host knows nothing of what was revoked after {taken}: revoke it again ({} unused join tokens are revoked)",
            done.tokens_revoked
        ),
    }
    Ok(())
}

fn failed(error: BackupError) -> Failure {
    Failure::plain(error.to_string())
}
