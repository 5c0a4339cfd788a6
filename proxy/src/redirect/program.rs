//! Runs a program of the system that needs milliseconds: input given, output collected, and an end within a deadline.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// iptables waits up to five seconds for others.
const DEADLINE: Duration = Duration::from_secs(15);
/// A Kubernetes node has tens of thousands of rules.
const MOST_OUTPUT: u64 = 64 * 1024 * 1024;
/// PATH of a service often lacks the administrators' directories.
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) output: String,
    pub(super) complaint: String,
}

/// Runs it to its end; kills it at the deadline.
pub(super) fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<Ended> {
    let mut command = Command::new(find(program)?);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let output = read(child.stdout.take());
    let complaint = read(child.stderr.take());
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(input.as_bytes()),
        None => Ok(()),
    };
    let (Ok(output), Ok(complaint)) = (output.recv_timeout(DEADLINE), complaint.recv_timeout(DEADLINE)) else {
        return Err(give_up(&mut child));
    };
    // Both its pipes are closed: it is ending.
    let status = child.wait()?;
    // Who ends early with success read all that it needed.
    let success = status.success() && written.is_ok();
    Ok(Ended { success, output, complaint })
}

fn give_up(child: &mut Child) -> io::Error {
    let _ = child.kill();
    let _ = child.wait();
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {} s", DEADLINE.as_secs()))
}

/// Reads in a thread, which ends with the pipe.
fn read(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is worth having.
            let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

fn find(program: &str) -> io::Result<PathBuf> {
    let candidates = DIRECTORIES.iter().map(|directory| Path::new(directory).join(program));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not installed"))
}
