//! A test that hangs ends the process with words. A time limit inside of the test is not enough: where a thread waits for the
//! disk for ever, the end of the test waits for that thread, and whatever the test has said is never shown.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The longest of these tests takes seconds; a machine that is ten times slower than others is no hang.
const HANGS: Duration = Duration::from_secs(300);

thread_local! {
    /// Goes with the test's thread, which is after the runtime of the test is gone.
    static TEST: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
}

/// From the test's thread. Once is enough.
pub(super) fn watch() {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // With one test at a time all are on the main thread, which ends with none of them.
    if name == "main" || TEST.with_borrow(Option::is_some) {
        return;
    }
    let (test, ended) = channel();
    TEST.set(Some(test));
    std::thread::spawn(move || {
        if ended.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
            // Not by a macro, whose output is kept for the end of the test.
            let _ = std::io::stderr().write_all(format!("{name} hangs. {}", threads()).as_bytes());
            std::process::abort();
        }
    });
}

/// What each thread of this process waits for in the kernel: a lock, a socket, the disk.
fn threads() -> String {
    let mut text = String::from("What its process waits for:\n");
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let _ = writeln!(text, "{}: {}", read("comm").trim(), read("wchan").trim());
    }
    text
}

#[test]
fn a_hang_is_told_with_what_each_thread_waits_for() {
    let (held, waits) = channel::<()>();
    let waiting = std::thread::Builder::new().name("that-waits".to_owned());
    let (done, waited) = channel();
    waiting.spawn(move || done.send(waits.recv_timeout(Duration::from_secs(60))).unwrap()).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !threads().lines().any(|line| line.starts_with("that-waits: ")) {
        assert!(std::time::Instant::now() < until, "{}", threads());
        std::thread::yield_now();
    }
    drop(held);
    assert_eq!(waited.recv().unwrap(), Err(RecvTimeoutError::Disconnected));
}
