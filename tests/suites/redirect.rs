//! `isthmus redirect` with the binary that operators get, each test in a network namespace of its own: what it puts in
//! force, that it refuses SSH, that a trial undoes itself however its terminal ends, and that nothing is left.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use isthmus_world::{Command, Finished, Host, Process};
use libtest_mimic::{Arguments, Failed, Trial};

const DEADLINE: Duration = Duration::from_secs(60);
const PORTS: [&str; 2] = ["--inbound-ports", "8080"];

type Outcome = Result<(), Failed>;

fn main() {
    isthmus_world::child_entry();
    let arguments = Arguments::from_args();
    if !arguments.list {
        isthmus_world::privilege::enter().unwrap_or_else(|error| panic!("{error}"));
    }
    macro_rules! trials {
        ($($name:ident),* $(,)?) => { vec![$(Trial::test(stringify!($name), $name)),*] };
    }
    let trials = trials![
        what_is_applied_is_checked_and_removed_without_a_trace,
        ssh_is_refused_and_nothing_is_changed,
        a_confirmed_trial_stays,
        a_trial_that_nobody_confirms_leaves_what_was_before,
        a_trial_outlives_its_terminal_and_is_then_undone,
        ctrl_c_undoes_a_trial,
        a_killed_trial_is_undone_by_the_kernel,
        a_second_trial_and_another_apply_are_refused_meanwhile,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A machine, with rules of somebody else.
struct Machine {
    host: Host,
    nft: Option<PathBuf>,
    before: String,
}

impl Machine {
    fn new() -> Result<Machine, Failed> {
        let host = Host::new("vm")?;
        let nft =
            isthmus_world::find::or_skip(&["nft"], "the comparison of whole rule sets").map(|mut all| all.remove(0));
        let mut machine = Machine { host, nft, before: String::new() };
        if let Some(nft) = &machine.nft {
            let theirs = "add table inet theirs; add chain inet theirs in { type filter hook input priority 0; }";
            let made = machine.host.output(Command::new(nft).arg(theirs), DEADLINE)?;
            assert!(made.status.success(), "{}", made.stderr);
        }
        machine.before = machine.rule_set()?;
        Ok(machine)
    }

    /// Every rule of the machine, whoever made it; empty where there is no `nft` to look with.
    fn rule_set(&self) -> Result<String, Failed> {
        let Some(nft) = &self.nft else { return Ok(String::new()) };
        Ok(self.host.output(Command::new(nft).args(["list", "ruleset"]), DEADLINE)?.stdout)
    }

    fn command(&self, words: &[&str]) -> Command {
        Command::new(env!("CARGO_BIN_EXE_isthmus")).arg("redirect").args(words).named("redirect")
    }

    fn redirect(&self, words: &[&str]) -> Result<Finished, Failed> {
        Ok(self.host.output(self.command(words), DEADLINE)?)
    }

    fn expect(&self, words: &[&str], status: i32) -> Result<Finished, Failed> {
        let finished = self.redirect(words)?;
        assert_eq!(finished.status.code(), Some(status), "{words:?}\n{}{}", finished.stdout, finished.stderr);
        Ok(finished)
    }

    fn apply_on_trial(&self, within: &str) -> Result<Process, Failed> {
        let process = self.host.spawn(self.command(&["apply", PORTS[0], PORTS[1], "--confirm", within]))?;
        process.wait_for_line("the trial", DEADLINE, |line| line.starts_with("in force on trial"))?;
        self.expect(&["check", PORTS[0], PORTS[1]], 0)?;
        Ok(process)
    }

    fn is_as_before(&self) -> Outcome {
        self.expect(&["check"], 1)?;
        assert_eq!(self.rule_set()?, self.before);
        Ok(())
    }

    /// Nobody tells us when the rules go: asked until they have, each time a whole program.
    fn waits_until_it_is_as_before(&self) -> Outcome {
        let until = Instant::now() + DEADLINE;
        while self.redirect(&["check", PORTS[0], PORTS[1]])?.status.success() {
            assert!(Instant::now() < until, "the rules are still there");
        }
        self.is_as_before()
    }
}

fn what_is_applied_is_checked_and_removed_without_a_trace() -> Outcome {
    let machine = Machine::new()?;
    machine.expect(&["check", PORTS[0], PORTS[1]], 1)?;
    machine.expect(&["apply", PORTS[0], PORTS[1]], 0)?;
    let with = machine.rule_set()?;
    let planned = machine.expect(&["plan", PORTS[0], PORTS[1]], 0)?.stdout;
    for rule in planned.lines().filter(|line| line.contains("comment")) {
        assert!(machine.nft.is_none() || with.contains(rule.trim()), "nft does not show: {rule}\n{with}");
    }
    machine.expect(&["check", PORTS[0], PORTS[1]], 0)?;
    let again = machine.expect(&["apply", PORTS[0], PORTS[1], "--json"], 0)?;
    assert!(again.stdout.contains("\"applied\":\"asItWas\""), "{}", again.stdout);
    let differs = machine.expect(&["check", "--inbound-ports", "81", "--json"], 1)?;
    assert!(differs.stdout.contains("\"standing\":\"differs\""), "{}", differs.stdout);
    machine.expect(&["apply", "--inbound-ports", "81"], 0)?;
    machine.expect(&["check", "--inbound-ports", "81"], 0)?;
    machine.expect(&["remove"], 0)?;
    machine.is_as_before()?;
    let nothing = machine.expect(&["remove", "--json"], 0)?;
    assert!(nothing.stdout.contains("\"removed\":false"), "{}", nothing.stdout);
    Ok(())
}

fn ssh_is_refused_and_nothing_is_changed() -> Outcome {
    let machine = Machine::new()?;
    let refused = machine.expect(&["apply", "--inbound-ports", "22,8080"], 2)?;
    assert!(refused.stderr.contains("port 22 is SSH's"), "{}", refused.stderr);
    // Within a session to another port, that one is SSH's too.
    let session = machine.command(&["apply", "--inbound-all"]).env("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 2222");
    let refused = machine.host.output(session, DEADLINE)?;
    assert!(refused.stderr.contains("port 2222 is SSH's"), "{}", refused.stderr);
    machine.is_as_before()?;
    machine.expect(&["apply", "--inbound-ports", "22", "--capture-ssh"], 0)?;
    machine.expect(&["remove"], 0)?;
    machine.is_as_before()
}

fn a_confirmed_trial_stays() -> Outcome {
    let machine = Machine::new()?;
    machine.expect(&["confirm"], 1)?;
    let mut trial = machine.apply_on_trial("1h")?;
    machine.expect(&["confirm"], 0)?;
    assert_eq!(trial.wait(DEADLINE)?.code(), Some(0));
    machine.expect(&["check", PORTS[0], PORTS[1]], 0)?;
    machine.expect(&["confirm"], 1)?;
    machine.expect(&["remove"], 0)?;
    machine.is_as_before()
}

fn a_trial_that_nobody_confirms_leaves_what_was_before() -> Outcome {
    let machine = Machine::new()?;
    machine.expect(&["apply", PORTS[0], PORTS[1], "--confirm", "100ms"], 3)?;
    machine.is_as_before()?;
    // Also where an earlier apply was before.
    machine.expect(&["apply", "--inbound-ports", "81"], 0)?;
    let before = machine.rule_set()?;
    machine.expect(&["apply", PORTS[0], PORTS[1], "--confirm", "100ms", "-o", "json"], 3)?;
    machine.expect(&["check", "--inbound-ports", "81"], 0)?;
    assert_eq!(machine.rule_set()?, before);
    Ok(())
}

fn a_trial_outlives_its_terminal_and_is_then_undone() -> Outcome {
    let machine = Machine::new()?;
    let mut trial = machine.apply_on_trial("3s")?;
    // As when SSH is cut: the command and its process group are gone without a word.
    trial.kill()?;
    machine.expect(&["check", PORTS[0], PORTS[1]], 0)?;
    machine.waits_until_it_is_as_before()
}

fn ctrl_c_undoes_a_trial() -> Outcome {
    let machine = Machine::new()?;
    let mut trial = machine.apply_on_trial("1h")?;
    trial.signal(rustix::process::Signal::INT)?;
    assert_eq!(trial.wait(DEADLINE)?.code(), Some(1));
    machine.is_as_before()
}

fn a_killed_trial_is_undone_by_the_kernel() -> Outcome {
    let machine = Machine::new()?;
    let mut trial = machine.apply_on_trial("1h")?;
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", trial.id()))?;
    let holder = children.split_whitespace().next().ok_or("nobody holds the rules")?.parse()?;
    let holder = rustix::process::Pid::from_raw(holder).ok_or("no process")?;
    rustix::process::kill_process(holder, rustix::process::Signal::KILL)?;
    assert_eq!(trial.wait(DEADLINE)?.code(), Some(1));
    machine.is_as_before()
}

fn a_second_trial_and_another_apply_are_refused_meanwhile() -> Outcome {
    let machine = Machine::new()?;
    let mut trial = machine.apply_on_trial("1h")?;
    let second = machine.expect(&["apply", PORTS[0], PORTS[1], "--confirm", "1h"], 1)?;
    assert!(second.stderr.contains("another trial"), "{}", second.stderr);
    machine.expect(&["apply", PORTS[0], PORTS[1]], 1)?;
    machine.expect(&["remove"], 1)?;
    machine.expect(&["confirm"], 0)?;
    assert_eq!(trial.wait(DEADLINE)?.code(), Some(0));
    Ok(())
}
