//! `isthmus status`: what the sidecar of this machine says of itself, over its admin socket. Asks nobody else, so it works
//! while no control plane does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use isthmus_certs::span_in_words;
use serde_json::Value;

use crate::failure::{Failure, finish};
use crate::output::{Format, OutputArgs, when};

const LIMIT: Duration = Duration::from_secs(5);
const MAX_ANSWER: u64 = 1024 * 1024;
/// It serves, and somebody should look at it.
const WARNINGS: u8 = 4;

/// Show how this machine's sidecar is: identity, certificate, control plane, and how long it can go on alone.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    sudo isthmus status\n  \
    sudo isthmus status --json\n  \
    sudo isthmus status --socket /run/isthmus/proxy.sock\n\n\
    EXIT STATUS: 0 ready, 1 not ready or no proxy answers, 2 wrong usage, 4 ready, with warnings")]
pub(crate) struct Args {
    /// The proxy's admin socket, which only its user and root may open.
    #[arg(long, value_name = "PATH", default_value = "/run/isthmus/proxy.sock")]
    socket: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let format = args.output.format();
    let status = match ask(&args.socket) {
        Ok(status) => status,
        Err(failure) => return finish(Err(failure), format),
    };
    match format {
        Format::Json => println!("{status}"),
        Format::Yaml => println!("{status:#}"),
        Format::Table => print!("{}", text(&status)),
    }
    match status["status"].as_str() {
        Some("ready") => ExitCode::SUCCESS,
        Some("warning") => ExitCode::from(WARNINGS),
        _ => ExitCode::FAILURE,
    }
}

pub(crate) fn ask(socket: &Path) -> Result<Value, Failure> {
    let unreachable = |e: std::io::Error| {
        let advice = match e.kind() {
            std::io::ErrorKind::PermissionDenied => "run it as root, or as the proxy's user",
            _ => {
                "is the proxy running (systemctl status isthmus-proxy), with this admin.socket? Name another with --socket"
            }
        };
        Failure::new(format!("no proxy answers at {}: {e}", socket.display()), advice)
    };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT))).map_err(unreachable)?;
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n").map_err(unreachable)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(unreachable)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| {
        Failure::new(
            format!("what answers at {} is no proxy of this version", socket.display()),
            "compare `isthmus version` with the proxy's",
        )
    })
}

fn parse(answer: &str) -> Option<Value> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let ok = head.split_whitespace().nth(1) == Some("200");
    serde_json::from_str(body).ok().filter(|value: &Value| ok && value["status"].is_string())
}

fn text(status: &Value) -> String {
    let now = status["nowUnixMs"].as_i64().unwrap_or_default();
    let mut lines = vec![("status", headline(status))];
    lines.push(("workload", word(&status["workload"])));
    lines.push(("identity", word(&status["identity"])));
    lines.push(("certificate", certificate(&status["certificate"], now)));
    lines.push(("control plane", control_plane(&status["controlPlane"], now)));
    lines.push(("alone", alone(&status["withoutControlPlane"])));
    lines.push(("snapshot", snapshot(&status["snapshot"], now)));
    lines.push(("kept", kept(&status["kept"])));
    lines.push(("capture", capture(&status["capture"])));
    lines.push(("version", word(&status["version"])));
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect();
    for warning in status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn headline(status: &Value) -> String {
    match (status["status"].as_str(), status["because"].as_str()) {
        (Some(word), Some(why)) => format!("{word} ({why})"),
        (Some("warning"), None) => "ready, with warnings".to_owned(),
        (word, _) => word.unwrap_or("-").to_owned(),
    }
}

fn word(value: &Value) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

fn ago(then: &Value, now: i64) -> String {
    span_in_words((now - then.as_i64().unwrap_or(now)).unsigned_abs())
}

fn certificate(certificate: &Value, now: i64) -> String {
    let Some(ends) = certificate["notAfterUnixMs"].as_i64() else { return "none yet".to_owned() };
    if ends <= now {
        return format!(
            "ended {} ago; serial {}",
            ago(&certificate["notAfterUnixMs"], now),
            word(&certificate["serial"])
        );
    }
    let renewal = match certificate["nextRenewalUnixMs"].as_i64().unwrap_or_default() {
        0 => "renewal not planned yet".to_owned(),
        at if at <= now => "renewal due now".to_owned(),
        at => format!("renewed in {}", span_in_words((at - now).unsigned_abs())),
    };
    let (left, serial) = (span_in_words((ends - now).unsigned_abs()), word(&certificate["serial"]));
    format!("ends in {left} ({}); {renewal}; serial {serial}", when(ends))
}

fn control_plane(control: &Value, now: i64) -> String {
    let address = word(&control["address"]);
    let since = ago(&control["sinceUnixMs"], now);
    match (control["connected"].as_bool(), control["sinceUnixMs"].as_i64()) {
        (Some(true), _) => format!("{address}, connected for {since}, version {}", word(&control["build"])),
        (_, Some(0) | None) => format!("{address}, not tried yet"),
        _ => format!("{address}, not connected for {since}: {}", word(&control["lastError"]["what"])),
    }
}

fn alone(alone: &Value) -> String {
    match alone["words"].as_str() {
        Some(words) => format!("can run {words} without the control plane, until {}", word(&alone["because"])),
        None => "serves nothing without the control plane now".to_owned(),
    }
}

fn snapshot(snapshot: &Value, now: i64) -> String {
    let version = snapshot["version"].as_u64().unwrap_or_default();
    match snapshot["from"].as_str() {
        Some("control-plane") => format!("version {version}, from the control plane"),
        Some("last-good") => {
            format!(
                "version {version}, the last good one from disk, signed {} ago",
                ago(&snapshot["signedUnixMs"], now)
            )
        }
        Some("too-old") => "the last good one was too old; everything is refused".to_owned(),
        _ => "none yet".to_owned(),
    }
}

fn kept(kept: &Value) -> String {
    let protection = word(&kept["protection"]);
    match (kept["version"].as_u64(), kept["error"].as_str()) {
        (Some(version), _) => format!("version {version} on disk; {protection}"),
        (None, Some(why)) => format!("not on disk: {why}"),
        (None, None) if protection == "-" => "nothing: there is no state directory".to_owned(),
        (None, None) => format!("nothing yet; {protection}"),
    }
}

fn capture(capture: &Value) -> String {
    let configured = word(&capture["configured"]);
    match capture["inForce"].as_str() {
        Some(by) if by == configured => by.to_owned(),
        Some(by) => format!("{by} (capture.mode: {configured})"),
        None if configured == "none" => "none".to_owned(),
        None => format!("not yet (capture.mode: {configured})"),
    }
}

#[cfg(test)]
#[path = "status_test.rs"]
mod status_test;
