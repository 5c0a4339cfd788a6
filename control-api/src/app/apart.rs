//! Threads apart from those that serve proxies, for operators and for whoever asks how the control plane is. A change that
//! thousands of proxies use is as many pieces of work; a call that stood behind them in one queue would wait for all of
//! them, and so would the next change.

use tokio::runtime::{Builder, Handle, Runtime};

/// They hand requests over and back: what waits for the disk, or computes for long, has threads of its own.
const THREADS: usize = 1;

pub(super) struct Apart {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Apart {
    pub(super) fn start() -> Result<Self, std::io::Error> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("operators").enable_all().build()?;
        Ok(Apart { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Without waiting: whoever drops it may be a task himself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
