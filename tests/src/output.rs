//! What a child writes, line by line: a bounded ring that can be waited on, and a file where one was asked for.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Lines that are kept per process. Older ones are counted and dropped.
const KEPT_LINES: usize = 20_000;

/// A line is cut here, so that a program without line ends does not fill the memory.
const LINE_BYTES: usize = 64 * 1024;

/// Standard output and standard error.
const STREAMS: u8 = 2;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Error,
}

/// The lines of one process.
#[derive(Default)]
pub(crate) struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    ring: VecDeque<(Stream, String)>,
    dropped: u64,
    ended: u8,
    file: Option<File>,
}

impl Output {
    /// Also writes each line to `file`.
    pub(crate) fn to_file(file: Option<File>) -> Self {
        let lines = Lines { file, ..Lines::default() };
        Self { lines: Mutex::new(lines), changed: Condvar::new() }
    }

    /// A thread that reads a pipe to its end.
    pub(crate) fn read(
        self: &Arc<Self>,
        label: &str,
        pipe: impl io::Read + Send + 'static,
        stream: Stream,
    ) -> io::Result<JoinHandle<()>> {
        let output = Arc::clone(self);
        thread::Builder::new().name(format!("log-{label}")).spawn(move || {
            let mut pipe = BufReader::new(pipe);
            while let Some(line) = read_line(&mut pipe) {
                output.push(stream, line);
            }
            output.lock().ended += 1;
            output.changed.notify_all();
        })
    }

    /// The first line, old or new, for which `predicate` holds; `None` at the deadline or when no more can come.
    pub(crate) fn find(&self, deadline: Duration, predicate: impl Fn(&str) -> bool) -> Option<String> {
        let mut looked_at = 0;
        self.wait(deadline, |lines| {
            // Absolute numbers, because the ring moves while we look at it.
            let skip = usize::try_from(looked_at.max(lines.dropped) - lines.dropped).unwrap_or(usize::MAX);
            looked_at = lines.dropped + lines.ring.len() as u64;
            lines.ring.iter().skip(skip).find(|(_, line)| predicate(line)).map(|(_, line)| line.clone())
        })
    }

    /// Waits until both streams have ended. A grandchild may hold them open, hence the deadline.
    pub(crate) fn wait_for_end(&self, deadline: Duration) {
        let _ = self.wait(deadline, |_| None::<()>);
    }

    /// The kept lines of one stream or of both, oldest first.
    pub(crate) fn lines(&self, stream: Option<Stream>) -> Vec<String> {
        let lines = self.lock();
        let chosen = lines.ring.iter().filter(|(from, _)| stream.is_none_or(|stream| *from == stream));
        chosen.map(|(_, line)| line.clone()).collect()
    }

    fn wait<T>(&self, deadline: Duration, mut look: impl FnMut(&Lines) -> Option<T>) -> Option<T> {
        let until = Instant::now() + deadline;
        let mut lines = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let found = look(&lines);
            if found.is_some() || left.is_zero() || lines.ended == STREAMS {
                return found;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, stream: Stream, line: String) {
        let mut lines = self.lock();
        if let Some(file) = &mut lines.file {
            // A full disk must not stop the program under test; the ring still has the line.
            let _ = writeln!(file, "{line}");
        }
        if lines.ring.len() == KEPT_LINES {
            lines.ring.pop_front();
            lines.dropped += 1;
        }
        lines.ring.push_back((stream, line));
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next line without its end, cut to [`LINE_BYTES`]. `None` at the end or after an error.
fn read_line(pipe: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LINE_BYTES).unwrap_or(u64::MAX);
    let read = io::Read::take(&mut *pipe, limit).read_until(b'\n', &mut bytes).ok()?;
    if read == 0 {
        return None;
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
