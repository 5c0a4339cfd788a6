//! When a frame leaves the link, or that it never does. Pure: time comes in as a number, so that every case is tested
//! without waiting.

use super::LinkShape;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It leaves at this time (nanoseconds, monotonic).
    Leaves(u64),
    /// Lost by chance.
    Lost,
    /// The queue before the wire is full.
    QueueFull,
}

/// One direction of the link: a queue, a wire that takes one frame at a time, and the way.
#[derive(Debug)]
pub(super) struct Shaper {
    shape: LinkShape,
    /// When the wire has taken all that was accepted so far.
    wire_free: u64,
    /// Frames do not overtake each other, also when the delay shrinks.
    last_departure: u64,
    chance: Chance,
}

impl Shaper {
    pub(super) fn new(shape: LinkShape, direction: u64) -> Self {
        Self { shape, wire_free: 0, last_departure: 0, chance: Chance(shape.seed ^ direction.rotate_left(32)) }
    }

    /// Takes another shape; what is on the wire is not moved.
    pub(super) fn reshape(&mut self, shape: LinkShape, direction: u64) {
        if shape.loss != self.shape.loss || shape.seed != self.shape.seed {
            self.chance = Chance(shape.seed ^ direction.rotate_left(32));
        }
        self.shape = shape;
    }

    /// A frame of `bytes` that arrived at `now`.
    pub(super) fn admit(&mut self, now: u64, bytes: usize) -> Fate {
        if self.shape.loss > 0.0 && self.chance.next() < self.shape.loss {
            return Fate::Lost;
        }
        let start = now.max(self.wire_free);
        if let Some(bandwidth) = self.shape.bandwidth {
            let waiting = bytes_in(start - now, bandwidth);
            if waiting + bytes as u64 > self.shape.queue_bytes as u64 {
                return Fate::QueueFull;
            }
            self.wire_free = start + time_of(bytes, bandwidth);
        } else {
            self.wire_free = start.min(now);
        }
        let way = u64::try_from(self.shape.round_trip.as_nanos() / 2).unwrap_or(u64::MAX);
        let departure = self.wire_free.max(now).saturating_add(way).max(self.last_departure);
        self.last_departure = departure;
        Fate::Leaves(departure)
    }
}

/// Nanoseconds that `bytes` need on the wire.
fn time_of(bytes: usize, bandwidth: u64) -> u64 {
    let nanoseconds = bytes as u128 * 8 * 1_000_000_000 / u128::from(bandwidth.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

/// Bytes that the wire moves in that many nanoseconds.
fn bytes_in(nanoseconds: u64, bandwidth: u64) -> u64 {
    let bytes = u128::from(nanoseconds) * u128::from(bandwidth) / 8 / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// SplitMix64: a seedable sequence that is good enough to lose frames by.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    /// The next number in 0..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 53 bits: all that a double holds exactly.
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "shaper_test.rs"]
mod shaper_test;
