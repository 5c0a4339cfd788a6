//! Each test is a process of its own. What one closes is closed then: where tests are threads, a program that another
//! test starts has a copy of every socket until it is executed, and the kernel takes a table's owner for alive.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::Outcome;

/// Set where this process is the one test that its arguments name.
const ALONE: &str = "ISTHMUS_TEST_ALONE";

pub(crate) fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// `test`, in this process where it is alone in it, or in one that is started for it.
pub(crate) fn trial(name: &'static str, test: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, move || if is_alone() { test() } else { start(name) })
}

fn start(name: &str) -> Outcome {
    let mut this = Command::new("/proc/self/exe");
    let output = this.args(["--exact", name]).env(ALONE, "1").stdin(Stdio::null()).output()?;
    if output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)).into())
}
