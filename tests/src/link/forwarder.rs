//! The emulator's thread: read what came, ask the shaper, send what is due, sleep until the next departure. The sleep
//! is a timerfd: timer wheels of runtimes tick in milliseconds, which is half of this link.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::packet_socket::PacketSocket;
use super::shaper::{Fate, Shaper};
use super::{Control, Shared};
use crate::clock::monotonic_ns;

/// Ethernet header and the MTU, with room for a VLAN tag.
const FRAME_BYTES: usize = 1522;

/// Frames that are read from one side before the other one and the departures get their turn.
const BATCH: usize = 64;

/// Frames on the way per direction: 1 Gbit/s times 1 s of delay. More is dropped and counted with the queue.
const ON_THE_WAY: usize = 100_000;

/// Buffers that are kept for the next frames.
const SPARE_BUFFERS: usize = 4_096;

pub(super) struct Forwarder {
    sockets: [PacketSocket; 2],
    ways: [Way; 2],
    timer: OwnedFd,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    spare: Vec<Vec<u8>>,
    version: u64,
}

/// One direction: from the socket of the same number to the other one.
struct Way {
    shaper: Shaper,
    frames: VecDeque<Frame>,
}

struct Frame {
    bytes: Vec<u8>,
    arrived: u64,
    leaves: u64,
}

impl Forwarder {
    pub(super) fn new(sockets: [PacketSocket; 2], shared: Arc<Shared>, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let shape = shared.control().shape;
        let way = |direction| Way { shaper: Shaper::new(shape, direction), frames: VecDeque::new() };
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { sockets, ways: [way(0), way(1)], timer, wake, shared, spare: Vec::new(), version: 0 })
    }

    pub(super) fn run(mut self) {
        // Ahead of the programs under test: a late emulator is a longer link. An ordinary user may not, and the
        // recorded times stay true without.
        let _ = rustix::process::setpriority_process(None, -20);
        loop {
            let control = *self.shared.control();
            if control.stop {
                return;
            }
            self.adopt(control);
            if let Err(error) = self.turn(control.cut) {
                // Without its sockets there is no link; the world shows it as one that is cut.
                eprintln!("link emulator: {error}");
                return;
            }
        }
    }

    fn adopt(&mut self, control: Control) {
        if control.version != self.version {
            self.version = control.version;
            for (direction, way) in (0..).zip(&mut self.ways) {
                way.shaper.reshape(control.shape, direction);
            }
        }
    }

    /// One turn: wait, read both sides, send what is due.
    fn turn(&mut self, cut: bool) -> io::Result<()> {
        let readable = self.wait()?;
        for side in [0, 1] {
            if readable[side] {
                self.read(side, cut)?;
            }
        }
        for side in [0, 1] {
            self.send_due(side, cut);
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<[bool; 2]> {
        self.arm_timer()?;
        let mut fds = [
            PollFd::new(&self.sockets[0], PollFlags::IN),
            PollFd::new(&self.sockets[1], PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.map(|fd| !fd.revents().is_empty());
        let mut count = [0; 8];
        if ready[2] {
            // Nothing to read after all only means that somebody set the timer anew.
            let _ = rustix::io::read(&self.timer, &mut count);
        }
        if ready[3] {
            let _ = rustix::io::read(self.wake.as_fd(), &mut count);
        }
        Ok([ready[0], ready[1]])
    }

    fn arm_timer(&self) -> io::Result<()> {
        let next = self.ways.iter().filter_map(|way| way.frames.front()).map(|frame| frame.leaves).min();
        // Zero would disarm the timer instead of firing at once.
        let at = next.map_or(0, |next| next.max(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let timer = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
        Ok(())
    }

    fn read(&mut self, side: usize, cut: bool) -> io::Result<()> {
        let (mut lost, mut full, mut cut_off, mut missed) = (0, 0, 0, 0);
        for _ in 0..BATCH {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.resize(FRAME_BYTES, 0);
            let Some(received) = self.sockets[side].receive(&mut bytes)? else {
                self.keep(bytes);
                break;
            };
            missed += u64::from(received.lost_before);
            bytes.truncate(received.bytes);
            let way = &mut self.ways[side];
            if cut {
                cut_off += 1;
                self.keep(bytes);
                continue;
            }
            match way.shaper.admit(received.arrived, bytes.len()) {
                Fate::Leaves(leaves) if way.frames.len() < ON_THE_WAY => {
                    way.frames.push_back(Frame { bytes, arrived: received.arrived, leaves });
                    continue;
                }
                Fate::Leaves(_) | Fate::QueueFull => full += 1,
                Fate::Lost => lost += 1,
            }
            self.keep(bytes);
        }
        if lost + full + cut_off + missed > 0 {
            let mut recorder = self.shared.recorder();
            let counts = recorder[side].counts();
            counts.dropped_loss += lost;
            counts.dropped_queue += full;
            counts.dropped_cut += cut_off;
            counts.dropped_host += missed;
        }
        Ok(())
    }

    /// Sends the frames of one direction whose time has come. A cut link loses what is on the wire.
    fn send_due(&mut self, side: usize, cut: bool) {
        for _ in 0..BATCH {
            let frames = &mut self.ways[side].frames;
            let due = frames.front().is_some_and(|frame| cut || frame.leaves <= monotonic_ns());
            let Some(frame) = frames.pop_front_if(|_| due) else {
                return;
            };
            let sent = !cut && self.sockets[1 - side].send(&frame.bytes);
            let took = monotonic_ns().saturating_sub(frame.arrived);
            let mut recorder = self.shared.recorder();
            if sent {
                recorder[side].sent(frame.bytes.len(), took);
            } else if cut {
                recorder[side].counts().dropped_cut += 1;
            } else {
                recorder[side].counts().dropped_host += 1;
            }
            drop(recorder);
            self.keep(frame.bytes);
        }
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS {
            self.spare.push(bytes);
        }
    }
}
