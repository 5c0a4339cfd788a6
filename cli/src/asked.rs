//! A question to the person at the terminal. Where nobody is there to answer, the answer is a flag.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// True: go on. Without a terminal and without `--yes` it is refused, and says what to do.
pub(crate) fn agreed(yes: bool, question: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let what = format!("{question} Nobody is here to say so; nothing was changed");
        return Err(Failure::new(what, "look at what is shown, then say it with --yes"));
    }
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|e| Failure::plain(format!("stdin: {e}")))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
