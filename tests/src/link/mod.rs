//! The link between two sites, emulated: every Ethernet frame, ARP and neighbour discovery included, is read from one
//! packet socket, held as long as the link would hold it, and written to the other. No kernel module (netem) is needed,
//! and the emulator knows to the microsecond what it did to each frame.
//!
//! `packet_socket.rs` reads and writes frames · `shaper.rs` decides when a frame leaves or that it is lost ·
//! `forwarder.rs` is the thread · `stats.rs` is what it saw.

mod forwarder;
mod packet_socket;
mod shaper;
mod stats;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

pub use stats::{DirectionStats, LinkStats};

use crate::error::Error;
use crate::host::Host;
use forwarder::Forwarder;
use packet_socket::PacketSocket;
use stats::Recorder;

/// How a link behaves. The same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkShape {
    /// Propagation there and back; each frame is held for half of it.
    pub round_trip: Duration,
    /// Bits per second on the wire; `None`: as fast as the machine.
    pub bandwidth: Option<u64>,
    /// Bytes that wait for their turn on the wire; what comes when it is full is dropped.
    pub queue_bytes: usize,
    /// Probability (0 to 1) that a frame is lost.
    pub loss: f64,
    /// Start of the sequence of losses: the same seed loses the same frames.
    pub seed: u64,
}

impl Default for LinkShape {
    /// 4 ms there and back, 1 Gbit/s, 1 MiB of queue (8 ms at full rate), no loss.
    fn default() -> Self {
        Self {
            round_trip: Duration::from_millis(4),
            bandwidth: Some(1_000_000_000),
            queue_bytes: 1 << 20,
            loss: 0.0,
            seed: 1,
        }
    }
}

/// A running link. All changes are in force for the next frame.
pub struct Link {
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    // The namespace the thread works in: kept until the thread has ended.
    _between: Host,
}

/// What the forwarder's thread and the handle share. Locked once per batch of frames, never while waiting.
pub(crate) struct Shared {
    control: Mutex<Control>,
    recorder: Mutex<[Recorder; 2]>,
}

#[derive(Clone, Copy)]
pub(crate) struct Control {
    shape: LinkShape,
    cut: bool,
    stop: bool,
    /// Counts changes of the shape, so that the forwarder restarts the loss sequence only then.
    version: u64,
}

impl Link {
    /// Starts forwarding between two interfaces of a host.
    pub(crate) fn start(between: Host, left: &str, right: &str, shape: LinkShape) -> Result<Self, Error> {
        let doing = "starting the link emulator";
        let shared = Arc::new(Shared::new(shape));
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let wake = Arc::new(wake.map_err(|error| Error::system(doing, error))?);
        let (left, right) = (left.to_owned(), right.to_owned());
        let (thread_shared, thread_wake) = (Arc::clone(&shared), Arc::clone(&wake));
        // Started from the host's thread, so that it is in the host's namespace.
        let thread = between.run(move || -> Result<JoinHandle<()>, Error> {
            let open = |name: &str| {
                PacketSocket::open(name).map_err(|error| Error::system(format!("{doing}: opening {name}"), error))
            };
            let sockets = [open(&left)?, open(&right)?];
            let forwarder = Forwarder::new(sockets, thread_shared, thread_wake);
            let forwarder = forwarder.map_err(|error| Error::system(doing, error))?;
            let builder = std::thread::Builder::new().name("link".to_owned());
            builder.spawn(move || forwarder.run()).map_err(|error| Error::system(doing, error))
        })?;
        Ok(Self { shared, wake, thread: Some(thread), _between: between })
    }

    /// How it behaves now.
    pub fn shape(&self) -> LinkShape {
        self.shared.control().shape
    }

    /// Changes how it behaves. Frames already on the wire keep their time of arrival.
    pub fn set_shape(&self, shape: LinkShape) {
        self.change(|control| {
            control.shape = shape;
            control.version += 1;
        });
    }

    /// Changes the propagation time only.
    pub fn set_round_trip(&self, round_trip: Duration) {
        self.set_shape(LinkShape { round_trip, ..self.shape() });
    }

    /// Changes the bandwidth only, in bits per second.
    pub fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.set_shape(LinkShape { bandwidth, ..self.shape() });
    }

    /// Changes the loss only, 0 to 1.
    pub fn set_loss(&self, loss: f64) {
        self.set_shape(LinkShape { loss, ..self.shape() });
    }

    /// Cuts the link: what is on the wire is lost, and all that comes, without any sign to either side.
    pub fn cut(&self) {
        self.change(|control| control.cut = true);
    }

    /// Joins it again.
    pub fn restore(&self) {
        self.change(|control| control.cut = false);
    }

    /// True between [`Link::cut`] and [`Link::restore`].
    pub fn is_cut(&self) -> bool {
        self.shared.control().cut
    }

    /// From here on [`Link::stats`] counts anew.
    pub fn mark(&self) {
        *self.shared.recorder() = Default::default();
    }

    /// What the link did since it was made or since the last [`Link::mark`].
    pub fn stats(&self) -> LinkStats {
        let recorder = self.shared.recorder();
        LinkStats { left_to_right: recorder[0].stats(), right_to_left: recorder[1].stats() }
    }

    fn change(&self, change: impl FnOnce(&mut Control)) {
        change(&mut self.shared.control());
        // Full only if 2^64 changes were never read: then the thread is awake anyway.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.change(|control| control.stop = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(shape: LinkShape) -> Self {
        let control = Control { shape, cut: false, stop: false, version: 0 };
        Self { control: Mutex::new(control), recorder: Mutex::default() }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recorder(&self) -> MutexGuard<'_, [Recorder; 2]> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
