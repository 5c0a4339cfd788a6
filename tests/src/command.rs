//! What to start in a host. Like `std::process::Command`, with what a world needs besides: a user id, a log file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// A program with its arguments, environment and user.
#[derive(Debug, Clone)]
pub struct Command {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) user: Option<u32>,
    pub(crate) net_admin: bool,
    pub(crate) input: Vec<u8>,
    pub(crate) log: Option<PathBuf>,
    label: Option<String>,
}

impl Command {
    /// A program by path, or by name as [`crate::find::program`] finds it. Its standard input is empty.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_path_buf(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            user: None,
            net_admin: false,
            input: Vec::new(),
            log: None,
            label: None,
        }
    }

    /// This very executable, as another process.
    pub fn this_program() -> Self {
        Self::new("/proc/self/exe")
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// An environment variable besides those of this process.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Its working directory.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_path_buf());
        self
    }

    /// Runs as this user id: really so for root, through a nested user namespace otherwise (the program sees the id,
    /// the kernel does not; such a program has no rights over the host's network).
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Keeps CAP_NET_ADMIN under another user id, as a sidecar has it (systemd's `AmbientCapabilities`). Needs real root:
    /// in a user namespace the program does not start and says so.
    pub fn net_admin(mut self) -> Self {
        self.net_admin = true;
        self
    }

    /// What it reads from standard input, at most 64 KiB (a pipe's worth, so that writing never blocks).
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Also appends each line of its output to this file.
    pub fn log_file(mut self, file: impl AsRef<Path>) -> Self {
        self.log = Some(file.as_ref().to_path_buf());
        self
    }

    /// How messages call it; the program's name when not set.
    pub fn named(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }

    pub(crate) fn label(&self) -> String {
        match (&self.label, self.program.file_name()) {
            (Some(label), _) => label.clone(),
            (None, Some(name)) => name.to_string_lossy().into_owned(),
            (None, None) => self.program.display().to_string(),
        }
    }
}
