//! The access log: a line per request, or per request that went wrong, in a file or on standard output. Lines are made
//! where the request is and written by a thread of their own, through one bounded queue: what the disk does not take in
//! time is dropped and counted, and no request waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use isthmus_certs::Clock;
use tokio::sync::{mpsc, oneshot};

use super::access_line::{Entry, LineFormat};
use super::metrics::Metrics;

/// Lines that wait for the disk; some 400 bytes each.
const QUEUE: usize = 8_192;
/// Lines that are written before somebody looks whether the file was moved away.
const BATCH: usize = 256;

/// Which requests get a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    Off,
    /// Refused, and answered 400 or more.
    Errors,
    All,
}

/// What the operator wants written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSettings {
    pub mode: AccessMode,
    pub format: LineFormat,
    /// `None`: standard output.
    pub path: Option<PathBuf>,
    /// Query parameters whose values are hidden besides the known ones; `*`: all.
    pub hide_query: Vec<String>,
}

impl Default for AccessSettings {
    fn default() -> Self {
        AccessSettings { mode: AccessMode::Off, format: LineFormat::Json, path: None, hide_query: Vec::new() }
    }
}

/// Where requests are told; cheap to clone. The default tells nothing.
#[derive(Clone, Default)]
pub struct AccessLog(Option<Arc<Open>>);

struct Open {
    settings: AccessSettings,
    queue: mpsc::Sender<Message>,
    clock: Arc<dyn Clock>,
}

/// For the thread that writes.
enum Message {
    Line(String),
    /// Say so when everything before this is written.
    Flush(oneshot::Sender<()>),
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccessLog").field(&self.0.as_ref().map(|open| &open.settings)).finish()
    }
}

impl AccessLog {
    /// Opens the file, so that a path that cannot be written to is known at start, and begins to write.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had.
    pub fn start(settings: AccessSettings, clock: Arc<dyn Clock>, metrics: &Metrics) -> io::Result<AccessLog> {
        if settings.mode == AccessMode::Off {
            return Ok(AccessLog::default());
        }
        let sink = Sink::open(settings.path.clone())?;
        let (queue, lines) = mpsc::channel(QUEUE);
        let metrics = metrics.clone();
        // Ends when the last handle is gone.
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(sink, lines, &metrics))?;
        Ok(AccessLog(Some(Arc::new(Open { settings, queue, clock }))))
    }

    /// Whether anything is told: else nothing has to be kept for it.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells of a request, where it is one that is to be told of.
    pub fn tell(&self, entry: &Entry<'_>, metrics: &Metrics) {
        let Some(open) = &self.0 else { return };
        let wrong = entry.status >= 400 || entry.reason.is_some();
        if open.settings.mode == AccessMode::Errors && !wrong {
            return;
        }
        let at_ms = u64::try_from(open.clock.now_ms()).unwrap_or_default();
        let line = open.settings.format.write(entry, at_ms, &open.settings.hide_query);
        if open.queue.try_send(Message::Line(line)).is_err() {
            metrics.access_lines_dropped(1);
        }
    }

    /// Resolves when what was told so far is written; to be given up after a while, as a disk may hang.
    pub async fn flush(&self) {
        let Some(open) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        if open.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

/// The thread that writes.
fn write_lines(mut sink: Sink, mut messages: mpsc::Receiver<Message>, metrics: &Metrics) {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), Vec::new());
    while messages.blocking_recv_many(&mut batch, BATCH) > 0 {
        let (mut lines, mut waiting) = (0, Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Line(line) => {
                    bytes.extend_from_slice(line.as_bytes());
                    lines += 1;
                }
                Message::Flush(done) => waiting.push(done),
            }
        }
        if sink.write(&bytes).is_err() {
            metrics.access_lines_dropped(lines);
        }
        bytes.clear();
        for done in waiting {
            // Whoever waits no longer needs no word.
            let _ = done.send(());
        }
    }
}

/// A file that may be moved away by whoever rotates it, or standard output.
#[derive(Debug)]
struct Sink(Option<(PathBuf, File)>);

impl Sink {
    fn open(path: Option<PathBuf>) -> io::Result<Sink> {
        path.map(|path| open(&path).map(|file| (path, file))).transpose().map(Sink)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some((path, file)) = &mut self.0 else { return io::stdout().write_all(bytes) };
        if is_moved(path, file) {
            *file = open(path)?;
        }
        file.write_all(bytes)
    }
}

/// Who calls whom is for the operator's eyes.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn is_moved(path: &Path, file: &File) -> bool {
    let place = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(opened)) => place(&named) != place(&opened),
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    }
}

#[cfg(test)]
#[path = "access_log_test.rs"]
mod access_log_test;
