//! Programs in Python, for protocols whose libraries are not ours: gRPC's own core, WebSockets. Their packages come from
//! PyPI, in a directory that `ISTHMUS_TEST_PYTHON` names, or are the machine's own.

use std::time::Duration;

use super::daemon::Daemon;
use crate::command::Command;
use crate::error::Error;
use crate::find;
use crate::host::Host;
use crate::process::{Finished, Process};

/// Where `.ci/run` has put the packages.
const PACKAGES: &str = "ISTHMUS_TEST_PYTHON";

/// A server program, given as its text; `arguments` are its `sys.argv[1:]`.
///
/// # Errors
/// As [`Daemon::start`].
pub fn python_server(host: &Host, port: u16, program: &str, arguments: &[&str]) -> Result<Daemon, Error> {
    Daemon::start(host, port, |_| Ok(python(program, arguments)))
}

/// A client program, run to its end.
///
/// # Errors
/// When Python is not installed or the program outlives the deadline.
pub fn python_client(host: &Host, program: &str, arguments: &[&str], deadline: Duration) -> Result<Finished, Error> {
    host.output(python(program, arguments), deadline)
}

/// A client program that goes on while the caller looks elsewhere.
///
/// # Errors
/// When Python is not installed.
pub fn python_process(host: &Host, program: &str, arguments: &[&str]) -> Result<Process, Error> {
    host.spawn(python(program, arguments))
}

fn python(program: &str, arguments: &[&str]) -> Command {
    // Unbuffered, so that a line that was printed is a line that is seen.
    let command = Command::new("python3").args(["-u", "-c", program]).args(arguments).named("python3");
    match std::env::var_os(PACKAGES) {
        Some(packages) => command.env("PYTHONPATH", packages),
        None => command,
    }
}

/// As [`find::or_skip`], for Python with these packages.
pub fn python_or_skip(packages: &[&str], what: &str) -> bool {
    if find::or_skip(&["python3"], what).is_none() {
        return false;
    }
    let import = format!("import {}", packages.join(", "));
    let mut command = std::process::Command::new("python3");
    if let Some(path) = std::env::var_os(PACKAGES) {
        command.env("PYTHONPATH", path);
    }
    let there = command.args(["-c", &import]).output().is_ok_and(|done| done.status.success());
    if there {
        return true;
    }
    let message = format!("SKIPPED: {what}: Python cannot `{import}`; pip install --target DIR, and {PACKAGES}=DIR");
    assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{message} (CI is set: that is a failure)");
    eprintln!("{message}");
    false
}
