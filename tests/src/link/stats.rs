//! What the emulator did to frames, per direction. The times are its own: from the kernel's receive timestamp of a frame
//! to the return of the call that sent it on.

use std::collections::VecDeque;
use std::time::Duration;

/// One-way times that are kept per direction; the median is over the latest.
const KEPT: usize = 65_536;

/// Both directions since the last mark.
#[derive(Debug, Clone, Default)]
pub struct LinkStats {
    /// From the first site to the second (cloud to on-prem).
    pub left_to_right: DirectionStats,
    /// From the second site to the first.
    pub right_to_left: DirectionStats,
}

/// One direction since the last mark.
#[derive(Debug, Clone, Default)]
pub struct DirectionStats {
    /// Frames that were sent on.
    pub frames: u64,
    /// Their bytes, Ethernet headers included.
    pub bytes: u64,
    /// Frames that found the queue full.
    pub dropped_queue: u64,
    /// Frames lost by chance.
    pub dropped_loss: u64,
    /// Frames lost because the link was cut.
    pub dropped_cut: u64,
    /// Frames the machine lost: the emulator was too slow to read them, or the kernel did not take them. A measurement
    /// in which this moves is not one of the link.
    pub dropped_host: u64,
    /// The median time from arrival at the emulator to departure; `None` when no frame passed.
    pub median: Option<Duration>,
}

impl LinkStats {
    /// The sum of both medians: what a round trip over the link costs. `None` before frames passed in both directions.
    pub fn round_trip(&self) -> Option<Duration> {
        Some(self.left_to_right.median? + self.right_to_left.median?)
    }

    /// Frames lost in either direction, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.left_to_right.dropped() + self.right_to_left.dropped()
    }
}

impl DirectionStats {
    /// Frames lost, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_queue + self.dropped_loss + self.dropped_cut + self.dropped_host
    }
}

/// One direction while it is being recorded.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    counts: DirectionStats,
    /// Nanoseconds, the latest at the end.
    times: VecDeque<u64>,
}

impl Recorder {
    pub(super) fn sent(&mut self, bytes: usize, nanoseconds: u64) {
        self.counts.frames += 1;
        self.counts.bytes += bytes as u64;
        if self.times.len() == KEPT {
            self.times.pop_front();
        }
        self.times.push_back(nanoseconds);
    }

    pub(super) fn counts(&mut self) -> &mut DirectionStats {
        &mut self.counts
    }

    pub(super) fn stats(&self) -> DirectionStats {
        let mut times: Vec<u64> = self.times.iter().copied().collect();
        let middle = times.len() / 2;
        let median = if times.is_empty() { None } else { Some(*times.select_nth_unstable(middle).1) };
        DirectionStats { median: median.map(Duration::from_nanos), ..self.counts.clone() }
    }
}
