//! Keeps the processors from sleeping while something is timed in microseconds. A halted virtual processor takes some
//! 100 µs to wake, and a network whose both ends are this machine would count that as its own time; `idle=poll` on the
//! kernel's command line does the same for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The lowest priority: whoever has work takes the processor at once.
const NICE: i32 = 19;

/// While it lives, no processor sleeps.
pub struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// One idle loop per processor.
    pub fn start() -> Awake {
        let stop = Arc::new(AtomicBool::new(false));
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let idle = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || idle(&stop))
        };
        Awake { threads: (0..count).map(|_| idle()).collect(), stop }
    }
}

fn idle(stop: &AtomicBool) {
    // On Linux a priority belongs to the thread. At another one we would be in the way of what is measured.
    let own = Some(rustix::thread::gettid());
    if rustix::process::setpriority_process(own, NICE).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It only loops; it cannot have panicked.
            let _ = thread.join();
        }
    }
}
