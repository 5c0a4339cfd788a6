//! `isthmus support-bundle`: what somebody else needs to understand a mesh that misbehaves, in one file that is safe to
//! mail. Of documents and configuration the structure is kept and values only of fields that are known to hold no secret
//! ([`redact`]); of certificates what is public. Keys, tokens and header values are never read into it.

mod redact;
mod tar;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{self, Admin, Authority, Resources};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, when};
use crate::problems::resource_name;
use crate::{certs, check, proxies, services, status};
use tar::Tar;

const AUDIT_LINES: u64 = 500;
const REVISIONS: u32 = 100;
/// Of a unit's journal.
const LOG_LINES: &str = "2000";
const MAX_FILE: u64 = 4 << 20;

/// Gather what somebody else needs to help, without secrets, in one file.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus support-bundle\n  \
    sudo isthmus support-bundle --operator operator.yaml --out mesh.tar    with this machine's logs and configuration\n  \
    tar -tf mesh.tar                                                       look before you mail it\n\n\
    Inside: versions, check, status, proxies, services, certificates (names and times), resources and configuration with\n\
    their values blanked out, history, the last lines of the audit log, and the journal of Isthmus' units. What cannot\n\
    be had is named in missing.txt.")]
pub(crate) struct Args {
    /// The file to write, mode 0600. Without it: isthmus-support-TIME.tar here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The admin socket of this machine's sidecar, if there is one.
    #[arg(long, value_name = "PATH", default_value = "/run/isthmus/proxy.sock")]
    socket: PathBuf,
    /// Where this machine's configuration is, if it is here.
    #[arg(long, value_name = "DIR", default_value = "/etc/isthmus")]
    config_dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(gather(args, operator)), format)
}

/// What was found, and what was not.
#[derive(Default)]
struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, found: Result<String, Failure>) {
        match found {
            Ok(text) => self.files.push((name.to_owned(), redact::text(&text).into_bytes())),
            Err(failure) => self.missing.push(format!("{name}: {}", redact::text(failure.text().trim()))),
        }
    }

    fn add_json(&mut self, name: &str, found: Result<Value, Failure>) {
        self.add(name, found.map(|value| format!("{value:#}\n")));
    }
}

async fn gather(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut bundle = Bundle::default();
    bundle.add_json("versions.json", versions(operator).await);
    bundle.add_json("check.json", check::report(operator).await);
    bundle.add_json("proxies.json", listed_proxies(operator).await);
    bundle.add_json("services.json", listed_services(operator).await);
    bundle.add_json("certificates.json", certificates(operator).await);
    bundle.add_json("resources.json", resources(operator).await);
    bundle.add_json("history.json", history(operator).await);
    bundle.add("audit.jsonl", audit(operator).await);
    bundle.add_json("status.json", status::ask(&args.socket));
    for name in ["control.yaml", "proxy.yaml"] {
        bundle.add(&format!("config/{name}"), configuration(&args.config_dir.join(name)));
    }
    for unit in ["isthmus-control", "isthmus-proxy"] {
        bundle.add(&format!("logs/{unit}.log"), journal(unit));
    }
    let missing = bundle.missing.join("\n");
    bundle.files.push(("missing.txt".to_owned(), format!("{missing}\n").into_bytes()));
    let now = jiff::Timestamp::now();
    let path = args.out.unwrap_or_else(|| format!("isthmus-support-{}.tar", now.strftime("%Y%m%d-%H%M%S")).into());
    write(&path, &bundle.files, now.as_second())?;
    let names: Vec<&str> = bundle.files.iter().map(|(name, _)| name.as_str()).collect();
    match args.output.format() {
        Format::Json => println!("{}", json!({ "ok": true, "file": path, "holds": names, "missing": bundle.missing })),
        Format::Table | Format::Yaml => {
            println!("{}: {}", path.display(), names.join(", "));
            bundle
                .missing
                .iter()
                .for_each(|missing| eprintln!("not in it: {}", missing.lines().next().unwrap_or_default()));
        }
    }
    Ok(())
}

async fn versions(operator: &OperatorArgs) -> Result<Value, Failure> {
    let here = json!({ "version": env!("CARGO_PKG_VERSION"), "kernel": kernel() });
    let answer = match Admin::connect(operator).await {
        Ok(mut admin) => admin.call(async |client| client.list_proxies(wire::ListProxiesRequest {}).await).await,
        Err(failure) => Err(failure),
    };
    let Ok(answer) = answer else { return Ok(json!({ "command": here, "controlPlane": null })) };
    let mut builds = std::collections::BTreeMap::<String, usize>::new();
    answer.proxies.into_iter().for_each(|proxy| *builds.entry(proxy.build_version).or_default() += 1);
    Ok(json!({ "command": here, "controlPlane": answer.build_version, "proxies": builds }))
}

fn kernel() -> String {
    fs::read_to_string("/proc/version").unwrap_or_default().trim().to_owned()
}

async fn listed_proxies(operator: &OperatorArgs) -> Result<Value, Failure> {
    let mut admin = Admin::connect(operator).await?;
    let answer = admin.call(async |client| client.list_proxies(wire::ListProxiesRequest {}).await).await?;
    Ok(json!(answer.proxies.iter().map(proxies::proxy_json).collect::<Vec<_>>()))
}

async fn listed_services(operator: &OperatorArgs) -> Result<Value, Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::ListServicesRequest::default();
    let answer = admin.call(async |client| client.list_services(request).await).await?;
    Ok(json!(answer.services.iter().map(services::service_json).collect::<Vec<_>>()))
}

async fn certificates(operator: &OperatorArgs) -> Result<Value, Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::ListCertificatesRequest {};
    Ok(certs::all_json(&authority.call(async |client| client.list_certificates(request).await).await?))
}

/// Every resource: who and how it stands in full, what it says blanked out.
async fn resources(operator: &OperatorArgs) -> Result<Value, Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::ListRequest { status: true, ..Default::default() };
    let answer = admin.call(async |client| client.list(request).await).await?;
    let one = |stored: &wire::StoredResource| {
        let document: Value = serde_json::from_str(&stored.json).unwrap_or_default();
        json!({
            "revision": stored.revision,
            "origin": stored.origin,
            "changed": when(stored.changed_unix_ms),
            "by": stored.changed_by,
            "inForce": format!("{}/{}", stored.in_force, stored.affected),
            "document": redact::document(&document),
        })
    };
    let all: Vec<Value> = answer.resources.iter().map(one).collect();
    Ok(json!({ "revision": answer.revision, "resources": all }))
}

async fn history(operator: &OperatorArgs) -> Result<Value, Failure> {
    let mut client = Resources::connect(operator).await?;
    let request = wire::HistoryRequest { limit: REVISIONS, ..Default::default() };
    let answer = client.call(async |client| client.history(request).await).await?;
    let one = |revision: &wire::Revision| {
        let names = revision.changes.iter().filter_map(|change| change.resource.as_ref()).map(resource_name);
        json!({
            "revision": revision.revision,
            "at": when(revision.at_unix_ms),
            "by": revision.who,
            "how": revision.how,
            "changes": names.collect::<Vec<_>>(),
        })
    };
    Ok(json!(answer.revisions.iter().map(one).collect::<Vec<_>>()))
}

/// The last lines.
async fn audit(operator: &OperatorArgs) -> Result<String, Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::VerifyAuditRequest::default();
    let lines = authority.call(async |client| client.verify_audit(request).await).await?.lines;
    let request = wire::ExportAuditRequest { from_line: lines.saturating_sub(AUDIT_LINES).max(1) };
    let mut stream = authority.call(async |client| client.export_audit(request).await).await?;
    let mut text = String::new();
    while let Some(batch) = stream.message().await.map_err(|status| connect::refused(&status))? {
        batch.lines.iter().for_each(|line| text.push_str(&format!("{}\n", redact::audit_line(line))));
    }
    Ok(text)
}

fn configuration(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::plain(format!("{}: {e}", path.display())))?;
    // Its message could quote the line that it stumbled over.
    let unreadable = |_| Failure::plain(format!("{}: not YAML, so it cannot be redacted", path.display()));
    let value: Value = serde_saphyr::from_str(&text).map_err(unreadable)?;
    serde_saphyr::to_string(&redact::configuration(&value)).map_err(|e| Failure::plain(e.to_string()))
}

fn journal(unit: &str) -> Result<String, Failure> {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "-q", "-n", LOG_LINES, "-o", "short-iso", "-u", unit]).stdin(Stdio::null());
    let done = command.output().map_err(|e| Failure::plain(format!("journalctl: {e}")))?;
    if !done.status.success() || done.stdout.is_empty() {
        return Err(Failure::plain(format!("the journal has nothing of {unit}, or may not be read by this user")));
    }
    let end = &done.stdout[done.stdout.len().saturating_sub(MAX_FILE as usize)..];
    Ok(String::from_utf8_lossy(end).into_owned())
}

fn write(path: &Path, files: &[(String, Vec<u8>)], at: i64) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", path.display()), "name another file with --out");
    let mut tar = Tar::default();
    for (name, bytes) in files {
        tar.add(&format!("isthmus-support/{name}"), bytes, at);
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&tar.end()).and_then(|()| file.sync_all()).map_err(failed)
}
