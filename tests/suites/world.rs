//! Proves the world itself: what the demo and the other suites stand on. Runs as root and as an ordinary user; needs
//! namespaces, so it has a `main` of its own that asks for them before any thread exists.

#[path = "world/apps.rs"]
mod apps;
#[path = "world/network.rs"]
mod network;
#[path = "world/processes.rs"]
mod processes;
#[path = "world/programs.rs"]
mod programs;

use std::time::Duration;

use isthmus_world::Error;
use libtest_mimic::{Arguments, Failed, Trial};

/// For everything that should take milliseconds: a loaded machine is slow, a hang is a failure.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What a test answers: an error or a failed assertion is its failure.
pub(crate) type Outcome = Result<(), Failed>;

fn main() -> Result<(), Error> {
    isthmus_world::child_entry();
    let privilege = isthmus_world::privilege::enter()?;
    if std::env::args().nth(1).as_deref() == Some(processes::HOLD_A_WORLD) {
        return processes::hold_a_world();
    }
    eprintln!("running as {privilege:?}");
    let mut arguments = Arguments::from_args();
    // Each test has a world of threads and timers of its own; more at once measure each other.
    arguments.test_threads.get_or_insert(2);
    let tests = [network::tests(), processes::tests(), apps::tests(), programs::tests()];
    libtest_mimic::run(&arguments, tests.into_iter().flatten().collect()).exit()
}

/// One line per test in the lists of the modules.
pub(crate) fn test(name: &str, run: fn() -> Outcome) -> Trial {
    Trial::test(name, run)
}
