//! A child process of the world: its output line by line in a bounded ring, its end by number and in time. Dropping it
//! kills it and everything in its process group.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::child;
use crate::command::Command;
use crate::error::Error;
use crate::output::{Output, Stream};

/// How many of the last lines an error shows.
const SHOWN_LINES: usize = 20;

/// How long a killed process may take to be gone. The kernel needs microseconds; this is for a loaded machine.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A running (or ended) program in a host.
pub struct Process {
    label: String,
    child: Child,
    pid: Pid,
    output: Arc<Output>,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it wrote to standard output, as far as it was kept.
    pub stdout: String,
    /// All that it wrote to standard error, as far as it was kept.
    pub stderr: String,
}

impl Process {
    /// Runs on the host's thread, so that the child is in the host's namespaces.
    pub(crate) fn start(command: Command, label: String) -> Result<Self, Error> {
        let doing = format!("starting {label}");
        let program = resolve(&command)?;
        let mut child = shim(&command, &program).spawn().map_err(|error| Error::system(&doing, error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is no failure of ours.
            let _ = stdin.write_all(&command.input[..command.input.len().min(64 * 1024)]);
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a started child has a positive id");
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let file = command.log.as_ref().map(open).transpose().map_err(|error| Error::system(&doing, error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = Self { label, child, pid, output: Arc::new(Output::to_file(file)) };
        // The threads end with the pipes, which end with the program and whomever it gave them to.
        if let Some(pipe) = stdout {
            process.output.read(&process.label, pipe, Stream::Out).map_err(|error| Error::system(&doing, error))?;
        }
        if let Some(pipe) = stderr {
            process.output.read(&process.label, pipe, Stream::Error).map_err(|error| Error::system(&doing, error))?;
        }
        Ok(process)
    }

    /// Host and program, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its process id, in our own process namespace.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The first line, old or new, for which `predicate` holds.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the last lines, also at once when the program has ended without such a line.
    pub fn wait_for_line(
        &self,
        what: &str,
        deadline: Duration,
        predicate: impl Fn(&str) -> bool,
    ) -> Result<String, Error> {
        self.output.find(deadline, predicate).ok_or_else(|| {
            let what = format!("{what} from {}", self.label);
            Error::Deadline { what, after: deadline, detail: self.last_lines() }
        })
    }

    /// The kept lines of both streams, oldest first.
    pub fn logs(&self) -> Vec<String> {
        self.output.lines(None)
    }

    /// The end of the log, for messages.
    pub fn last_lines(&self) -> String {
        let lines = self.logs();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Waits for its end by itself.
    ///
    /// # Errors
    /// [`Error::Deadline`]; it goes on running then.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        let doing = format!("waiting for {}", self.label);
        if let Some(status) = self.child.try_wait().map_err(|error| Error::system(&doing, error))? {
            return Ok(status);
        }
        if !ends_within(self.pid, deadline).map_err(|error| Error::system(&doing, error))? {
            let what = format!("the end of {}", self.label);
            return Err(Error::Deadline { what, after: deadline, detail: self.last_lines() });
        }
        self.child.wait().map_err(|error| Error::system(doing, error))
    }

    /// Waits for its end and hands out its output; kills it at the deadline.
    ///
    /// # Errors
    /// [`Error::Deadline`] with its last lines.
    pub fn finish(mut self, deadline: Duration) -> Result<Finished, Error> {
        let until = Instant::now() + deadline;
        let status = self.wait(deadline)?;
        self.output.wait_for_end(until.saturating_duration_since(Instant::now()));
        let text = |stream| self.output.lines(Some(stream)).into_iter().map(|line| line + "\n").collect();
        Ok(Finished { status, stdout: text(Stream::Out), stderr: text(Stream::Error) })
    }

    /// Kills it at once (SIGKILL, the whole process group) and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, Error> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Ok(status);
        }
        // Not reaped yet, so that the id is surely still its own.
        kill_process_group(self.pid, Signal::KILL)
            .or_else(|_| kill_process(self.pid, Signal::KILL))
            .map_err(|error| Error::system(format!("killing {}", self.label), error))?;
        self.wait(KILL_DEADLINE)
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it takes longer; it goes on running then.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        self.signal(Signal::TERM)?;
        self.wait(deadline)
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        if !self.is_running() {
            return Ok(());
        }
        kill_process(self.pid, signal).map_err(|error| Error::system(format!("signalling {}", self.label), error))
    }

    /// Processor time it has used so far, in user and kernel mode.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu_time(&self) -> Result<Duration, Error> {
        let stat = self.proc_file("stat")?;
        // The second field is the name in parentheses and may hold spaces: count from the last parenthesis, which is
        // followed by field 3 (proc_pid_stat(5)); utime and stime are 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: Option<u64> =
            fields.get(11..13).map(|both| both.iter().filter_map(|text| text.parse::<u64>().ok()).sum());
        let ticks = ticks.ok_or_else(|| Error::Unexpected(format!("/proc/{}/stat has too few fields", self.id())))?;
        Ok(Duration::from_nanos(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()))
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64, Error> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| Error::Unexpected(format!("{} has no resident memory: it has ended", self.label)))
    }

    fn proc_file(&self, name: &str) -> Result<String, Error> {
        let path = format!("/proc/{}/{name}", self.id());
        fs::read_to_string(&path).map_err(|error| Error::system(format!("reading {path} of {}", self.label), error))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a process that the kernel does not let us kill.
        let _ = self.kill();
    }
}

fn resolve(command: &Command) -> Result<PathBuf, Error> {
    if command.program.components().count() > 1 {
        return Ok(command.program.clone());
    }
    crate::find::required(&command.program.to_string_lossy())
}

fn user(command: &Command) -> String {
    let kept = if command.net_admin { child::NET_ADMIN } else { "" };
    command.user.map_or_else(|| "-".to_owned(), |uid| format!("{uid}{kept}"))
}

/// Ourselves, on the way to become the program: see `child.rs`.
fn shim(command: &Command, program: &std::path::Path) -> std::process::Command {
    let mut shim = std::process::Command::new("/proc/self/exe");
    shim.arg(child::MARK).arg(child::this_thread());
    shim.arg(user(command));
    shim.arg(program).args(&command.arguments).envs(command.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &command.directory {
        shim.current_dir(directory);
    }
    shim.stdin(if command.input.is_empty() { Stdio::null() } else { Stdio::piped() });
    // A group of its own: Ctrl-C at the terminal reaches us, and we end the children in order.
    shim.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    shim
}

/// True when the process ended in time. It is not reaped.
fn ends_within(pid: Pid, deadline: Duration) -> io::Result<bool> {
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
