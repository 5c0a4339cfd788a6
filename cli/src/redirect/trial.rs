//! `apply --confirm`: rules that undo themselves. A process of its own holds them, in a session of its own, so that it
//! outlives the terminal and the SSH session that may be cut by what it applied. The rules are owned by its netlink
//! socket: whatever ends that process ends them, in the kernel. (By iptables there is no owner; there only its orderly
//! end undoes them.) It is spoken to on an abstract Unix socket, which belongs to the network namespace as the rules do;
//! whoever is neither root nor its own user is refused.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use isthmus_proxy::redirect::{Capture, CaptureError, Plan, Protection, Snapshot, Standing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use serde_json::json;

use super::scope::ScopeArgs;
use super::{Backend, BackendArgs, Rules, failed, rules_of};
use crate::failure::Failure;
use crate::output::Format;

const NAME: &[u8] = b"isthmus-redirect-trial";
/// A word is written at once; who does not is not waited for.
const WORD_DEADLINE: Duration = Duration::from_secs(1);
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
const LONGEST_WORD: u64 = 16;

/// How a trial ends, as a word on the socket and on the pipe.
const CONFIRMED: &str = "confirmed";
const UNDONE: &str = "undone";
const EXPIRED: &str = "expired";

/// Starts the process that holds the rules, and waits here for how it ends. Ctrl-C undoes; to be cut off does not hurt.
pub(super) fn begin(scope: &ScopeArgs, within: Duration, format: Format) -> Result<(), Failure> {
    let plan = scope.plan()?;
    let own = std::env::current_exe().map_err(|e| Failure::plain(format!("cannot find myself: {e}")))?;
    // The same flags, also --backend: what is left of our own command line behind `redirect apply`.
    let flags = std::env::args_os().skip_while(|word| word != "apply").skip(1);
    let mut child = Command::new(own)
        .args(["redirect", "__trial"])
        .args(without_output(flags))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Failure::plain(format!("cannot start the process that undoes: {e}")))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| Failure::plain("no pipe"))?).lines();
    let mut next = move || lines.next().and_then(Result::ok).unwrap_or_default();
    match next() {
        ready if ready == "ready" => {}
        refused => {
            let _ = child.wait();
            let status = refused.split_once(' ').unwrap_or(("", "the process that undoes ended at once"));
            return Err(Failure::plain(status.1));
        }
    }
    if format != Format::Json {
        println!("in force on trial: {} rules; undone in {} s unless confirmed", rules_of(&plan), within.as_secs_f64());
        println!("  try your machine from another session, then: isthmus redirect confirm");
    }
    undo_on_interrupt()?;
    let end = next();
    let _ = child.wait();
    if format == Format::Json {
        println!("{}", json!({ "ok": end == CONFIRMED, "trial": end }));
    }
    let failure = match end.as_str() {
        CONFIRMED => {
            if format != Format::Json {
                println!("confirmed; the rules stay until a reboot or `isthmus redirect remove`");
            }
            return Ok(());
        }
        EXPIRED => {
            Failure::timed_out("not confirmed in time: the rules are undone", "isthmus redirect confirm, sooner")
        }
        UNDONE => Failure::plain("the rules are undone"),
        _ => Failure::plain("the process that held the rules was killed; the kernel has undone them"),
    };
    Err(if format == Format::Json { failure.reported() } else { failure })
}

/// How the answer is printed is our business, not that of who holds the rules.
fn without_output(flags: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut value) = (Vec::new(), false);
    for flag in flags {
        let text = flag.to_string_lossy();
        let output = text == "--json" || text.starts_with("--output") || text.starts_with("-o");
        if !output && !value {
            kept.push(flag.clone());
        }
        value = text == "--output" || text == "-o";
    }
    kept
}

/// Keeps the rules of the trial under way.
pub(super) fn confirm(format: Format) -> Result<(), Failure> {
    match say("confirm") {
        Ok(answer) if answer == CONFIRMED => {
            match format {
                Format::Json => println!("{}", json!({ "ok": true, "trial": CONFIRMED })),
                _ => println!("confirmed; the rules stay until a reboot or `isthmus redirect remove`"),
            }
            Ok(())
        }
        Ok(answer) => Err(Failure::plain(format!("the trial did not confirm: {answer}"))),
        Err(error) => Err(Failure::new(
            format!("there is nothing to confirm: {error}"),
            "isthmus redirect apply --confirm 60s; perhaps it has been undone already",
        )),
    }
}

/// The process that holds the rules.
pub(super) fn run(scope: &ScopeArgs, backend: BackendArgs, within: Duration) -> ExitCode {
    // Away from the terminal: its end must not be ours.
    let _ = rustix::process::setsid();
    let began = scope.plan().and_then(|plan| Trial::begin(plan, backend.backend));
    let trial = match began {
        Ok(trial) => trial,
        Err(failure) => {
            tell(&format!("refused {}", failure.json()["error"].as_str().unwrap_or_default()));
            return ExitCode::FAILURE;
        }
    };
    tell("ready");
    tell(&trial.hold(Instant::now() + within));
    ExitCode::SUCCESS
}

/// To whoever started us, if it is still there.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdout().flush();
}

struct Trial {
    listener: UnixListener,
    rules: Rules,
    before: Option<Snapshot>,
    plan: Plan,
}

impl Trial {
    fn begin(plan: Plan, backend: Option<Backend>) -> Result<Trial, Failure> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(|e| Failure::plain(e.to_string()))?;
        let listener = UnixListener::bind_addr(&address).map_err(|_| {
            Failure::new(
                "another trial waits for its confirmation",
                "isthmus redirect confirm, or wait until it is over",
            )
        })?;
        listener.set_nonblocking(true).map_err(|e| Failure::plain(e.to_string()))?;
        let before = match Capture::open(Protection::Trial).and_then(|mut capture| capture.snapshot()) {
            // No nf_tables, and nothing of ours in it.
            Err(CaptureError::Unsupported(_)) => None,
            before => before.map_err(failed)?,
        };
        // iptables' rules could not be brought back.
        if let Ok(mut rules @ Rules::Iptables(_)) = Rules::open(backend, Protection::Trial)
            && rules.standing(&plan).map_err(failed)? != Standing::Absent
        {
            return Err(Failure::new(
                "an earlier apply is in force by iptables",
                "isthmus redirect remove, then try again",
            ));
        }
        let (rules, _) = Rules::apply(backend, Protection::Trial, &plan).map_err(failed)?;
        Ok(Trial { listener, rules, before, plan })
    }

    /// Until somebody says a word, or the time is over.
    fn hold(self, deadline: Instant) -> String {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.undo(EXPIRED);
            }
            let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            // Interrupted or not: the deadline is looked at again.
            let _ = poll(&mut ready, Some(&left));
            let Ok((stream, _)) = self.listener.accept() else { continue };
            match heard(&stream).as_deref() {
                Some("confirm") => return self.keep(stream),
                Some("undo") => {
                    let end = self.undo(UNDONE);
                    answer(stream, &end);
                    return end;
                }
                _ => {}
            }
        }
    }

    /// The trial's table cannot become one that persists: it is exchanged for one, in one transaction.
    fn keep(mut self, stream: UnixStream) -> String {
        let kept = match &mut self.rules {
            Rules::Nftables(capture) => {
                capture.make_lasting();
                capture.apply(&self.plan).map(|_| ())
            }
            Rules::Iptables(_) => Ok(()),
        };
        let end = match kept {
            Ok(()) => CONFIRMED.to_owned(),
            Err(error) => format!("{UNDONE}: {error}"),
        };
        answer(stream, &end);
        end
    }

    fn undo(self, end: &str) -> String {
        let undone = match self.rules {
            Rules::Nftables(capture) => capture.restore(self.before.as_ref()),
            Rules::Iptables(iptables) => iptables.remove().map(|_| ()),
        };
        // By nftables the kernel undoes what is left when this process ends, which is now.
        undone.map_or_else(|error| format!("{end}: {error}"), |()| end.to_owned())
    }
}

/// The word of somebody who may say one.
fn heard(stream: &UnixStream) -> Option<String> {
    let peer = socket_peercred(stream).ok()?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return None;
    }
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(WORD_DEADLINE)).ok()?;
    let mut word = String::new();
    BufReader::new(stream.take(LONGEST_WORD)).read_line(&mut word).ok()?;
    Some(word.trim_end().to_owned())
}

fn answer(mut stream: UnixStream, end: &str) {
    // Who asked may be gone.
    let _ = writeln!(stream, "{end}");
}

/// Says a word to the trial under way, and hears how it ends.
fn say(word: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(NAME)?)?;
    let peer = socket_peercred(&stream)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Err(std::io::Error::other("somebody else answers in its place"));
    }
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    writeln!(stream, "{word}")?;
    let mut answer = String::new();
    BufReader::new(stream.take(1024)).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// Ctrl-C says `undo`; the pipe then tells the end. The thread ends with this process, which waits for that.
fn undo_on_interrupt() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::plain(format!("no runtime: {e}")))?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            let _ = say("undo");
        }
    });
    Ok(())
}
