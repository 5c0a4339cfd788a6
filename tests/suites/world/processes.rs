//! Children: their output, their end, and that none is left.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use isthmus_world::privilege::{self, Privilege};
use isthmus_world::{Command, Error, Host, World};
use libtest_mimic::Trial;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::{Outcome, SOON, test};

/// `argv[1]` of the copy of this program that holds a world until it is killed.
pub(crate) const HOLD_A_WORLD: &str = "hold-a-world";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("a_childs_output_is_kept_line_by_line", output),
        test("a_child_ends_on_request_and_by_force", ends),
        test("a_child_runs_as_another_user", other_user),
        test("children_die_with_the_world", die_with_the_world),
        test("children_die_when_the_process_is_killed", die_with_the_process),
        test("a_missing_program_is_named", missing_program),
    ]
}

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn output() -> Outcome {
    let host = Host::new("alone")?;
    let log = host.files().join("log");
    let mut child =
        host.spawn(shell("echo one; echo two >&2; read line; echo $line").input("three\n").log_file(&log))?;
    child.wait_for_line("the second line", SOON, |line| line == "two")?;
    child.wait_for_line("the input", SOON, |line| line == "three")?;
    assert!(child.wait(SOON)?.success());
    assert_eq!(child.logs().len(), 3);
    assert_eq!(std::fs::read_to_string(log)?.lines().count(), 3);
    let Err(Error::Deadline { detail, .. }) = child.wait_for_line("a fourth", SOON, |line| line == "four") else {
        return Err("a line that was never written was found".into());
    };
    assert!(detail.contains("three"), "the error shows the log: {detail}");
    Ok(())
}

fn ends() -> Outcome {
    let host = Host::new("alone")?;
    let polite = "trap 'exit 7' TERM; echo ready; while :; do read line < /dev/null; done";
    let mut child = host.spawn(shell(polite))?;
    child.wait_for_line("its readiness", SOON, |line| line == "ready")?;
    assert!(child.is_running() && child.resident_bytes()? > 0);
    let _ = child.cpu_time()?;
    assert_eq!(child.terminate(SOON)?.code(), Some(7));
    let mut child = host.spawn(shell("trap '' TERM; echo ready; sleep 1000 & wait"))?;
    child.wait_for_line("its readiness", SOON, |line| line == "ready")?;
    assert!(matches!(child.terminate(Duration::from_millis(50)), Err(Error::Deadline { .. })));
    assert_eq!(child.kill()?.signal(), Some(9));
    assert!(child.resident_bytes().is_err());
    Ok(())
}

fn other_user() -> Outcome {
    let host = Host::new("alone")?;
    let finished = host.output(Command::new("id").arg("-u").user(65_534), SOON)?;
    assert_eq!(finished.stdout, "65534\n", "{finished:?}");
    let capabilities = Command::new("grep").args(["CapEff", "/proc/self/status"]).user(1_337).net_admin();
    let finished = host.output(capabilities, SOON)?;
    match privilege::current() {
        // Bit 12 (linux/capability.h) and nothing else.
        Privilege::Root => assert!(finished.stdout.trim().ends_with("\t0000000000001000"), "{finished:?}"),
        Privilege::UserNamespace => assert!(finished.stderr.contains("needs real root"), "{finished:?}"),
    }
    Ok(())
}

fn die_with_the_world() -> Outcome {
    let world = World::two_sites().build()?;
    let mut child = world.host("orders").spawn(shell("echo ready; exec sleep 1000"))?;
    child.wait_for_line("its readiness", SOON, |line| line == "ready")?;
    drop(world);
    assert_eq!(child.wait(SOON)?.signal(), Some(9));
    Ok(())
}

fn die_with_the_process() -> Outcome {
    // What is killed cannot clean up: its files are ours.
    let files = tempfile::tempdir()?;
    let mut holder = std::process::Command::new("/proc/self/exe")
        .arg(HOLD_A_WORLD)
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    let pid = line.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| format!("not a process id: {line:?}"))?;
    let child = pidfd_open(pid, PidfdFlags::empty())?;
    holder.kill()?;
    holder.wait()?;
    let ended = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&Timespec::try_from(SOON)?))?;
    if ended == 0 {
        kill_process(pid, Signal::KILL)?;
        return Err("the child outlived the process that held its world".into());
    }
    Ok(())
}

/// Prints the id of a child and waits to be killed.
pub(crate) fn hold_a_world() -> Result<(), Error> {
    let host = Host::new("held")?;
    let mut child = host.spawn(shell("echo ready; exec sleep 1000"))?;
    child.wait_for_line("its readiness", SOON, |line| line == "ready")?;
    println!("{}", child.id());
    println!("{} true", host.enter_command());
    child.wait(Duration::from_secs(60)).map(|_| ())
}

fn missing_program() -> Outcome {
    let host = Host::new("alone")?;
    let result = host.spawn(Command::new("no-such-program-here"));
    assert!(matches!(result, Err(Error::Missing { program, .. }) if program == "no-such-program-here"));
    Ok(())
}
