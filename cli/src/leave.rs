//! `isthmus leave`: undoes `isthmus join` on this machine, from its record. The control plane is not asked, so that it
//! also works where there is none any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::connect;
use crate::failure::{Failure, finish};
use crate::join::machine;
use crate::join::record::{self, Joined};
use crate::output::{Format, OutputArgs};

/// Take this machine out of the mesh: stop the proxy, remove what `isthmus join` made.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  sudo isthmus leave\n  sudo isthmus leave --dry-run\n\n\
    The machine's Workload stays stored; `isthmus delete workload NAMESPACE/NAME` removes it.")]
pub(crate) struct Args {
    /// Where `isthmus join` wrote its files.
    #[arg(long, default_value = "/etc/isthmus", value_name = "DIR")]
    config_dir: PathBuf,
    /// Say what would go; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(leave(&args, format)), format)
}

async fn leave(args: &Args, format: Format) -> Result<(), Failure> {
    let Some(joined) = Joined::read(&args.config_dir)? else {
        let what = format!("this machine has not joined: there is no {}", record::path(&args.config_dir).display());
        return Err(Failure::new(what, "if it joined with another --config-dir, name that one"));
    };
    if joined.unit.is_some() && !args.dry_run && !machine::is_root() {
        return Err(Failure::new("removing a service takes root", "sudo isthmus leave"));
    }
    if !args.dry_run {
        remove(&joined, &args.config_dir).await?;
    }
    if format == Format::Json {
        let facts = json!({ "ok": true, "dryRun": args.dry_run, "trustDomain": joined.trust_domain,
                            "files": joined.files, "stateDir": joined.state_dir, "service": joined.unit });
        println!("{facts}");
        return Ok(());
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    for path in joined.files.iter().chain([&joined.state_dir]) {
        println!("{verb} {}", path.display());
    }
    if !args.dry_run {
        println!("left {}; the Workload stays stored: isthmus delete workload NAMESPACE/NAME", joined.trust_domain);
    }
    Ok(())
}

/// For a join that failed half way; nothing to do where it had not begun.
pub(crate) async fn undo(config_dir: &Path) -> Result<(), Failure> {
    match Joined::read(config_dir)? {
        Some(joined) => remove(&joined, config_dir).await,
        None => Ok(()),
    }
}

/// The record goes last: whatever fails, `leave` can be run again.
async fn remove(joined: &Joined, config_dir: &Path) -> Result<(), Failure> {
    if let Some(unit) = &joined.unit
        && machine::unit_path().exists()
    {
        machine::systemctl(&["disable", "--now", unit]).await?;
        // After a crash the rules stay; with the proxy gone for good they would only refuse.
        crate::redirect::clear()?;
    }
    for path in &joined.files {
        gone(path, fs::remove_file(path))?;
    }
    if joined.unit.is_some() {
        machine::systemctl(&["daemon-reload"]).await?;
    }
    empty_state(&joined.state_dir)?;
    if joined.user_created {
        machine::remove_user().await?;
    }
    let record = record::path(config_dir);
    gone(&record, fs::remove_file(&record))?;
    // Other files may be there, such as control.yaml; then the directory stays.
    let _ = fs::remove_dir(config_dir);
    Ok(())
}

/// The proxy keeps plain files in its directory and nothing else; whatever else is there is not ours to remove.
fn empty_state(dir: &Path) -> Result<(), Failure> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| stays(dir, &e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| stays(dir, &e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            gone(&entry.path(), fs::remove_file(entry.path()))?;
        }
    }
    gone(dir, fs::remove_dir(dir))
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), Failure> {
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(stays(path, &e)),
        _ => Ok(()),
    }
}

fn stays(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        format!("{} could not be removed: {error}", path.display()),
        "remove it by hand, then run `isthmus leave` again",
    )
}

#[cfg(test)]
#[path = "leave_test.rs"]
mod leave_test;
