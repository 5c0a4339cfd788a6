//! Time that passed without us: a machine that slept, or a wall clock that was set. Either way certificates may have ended
//! while nobody looked, so it is noticed within seconds and not when the next wait is over.

use std::time::Duration;

use isthmus_certs::Clock;
use tokio::time::Instant;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(2);
/// Less than this is a slow machine, or a clock that is being set right in small steps.
const LEAST: Duration = Duration::from_secs(30);
/// Less than this of a certificate's life changes nothing for it.
const PART_OF_LIFE: u32 = 20;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jump {
    /// CLOCK_BOOTTIME went on while CLOCK_MONOTONIC, which the timers hang on, stood still.
    Slept(Duration),
    /// The wall clock alone went on, or back: milliseconds.
    Set(i64),
}

/// The clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall_ms: i64,
    pub(super) monotonic: Instant,
    /// How much of its life the machine has slept, as far as is known.
    pub(super) slept: Duration,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Moment {
        Moment { wall_ms: clock.now_ms(), monotonic: Instant::now(), slept: slept() }
    }

    /// What happened between two moments, beside time.
    pub(super) fn jump_to(self, later: Moment, least: Duration) -> Option<Jump> {
        let slept = later.slept.saturating_sub(self.slept);
        if slept >= least {
            return Some(Jump::Slept(slept));
        }
        let ran = millis(later.monotonic.saturating_duration_since(self.monotonic));
        let set = later.wall_ms.saturating_sub(self.wall_ms).saturating_sub(ran);
        (set.saturating_abs() >= millis(least)).then_some(Jump::Set(set))
    }
}

/// Resolves at the next jump that matters to a certificate of this life.
pub(super) async fn next_jump(clock: &dyn Clock, life: Duration) -> Jump {
    let least = (life / PART_OF_LIFE).clamp(LOOK, LEAST);
    let mut before = Moment::now(clock);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = Moment::now(clock);
        if let Some(jump) = before.jump_to(now, least) {
            return jump;
        }
        before = now;
    }
}

/// CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not (clock_gettime(2)).
fn slept() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
    // In this order, so that the time between the two reads counts as none.
    let monotonic = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(monotonic)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "passage_test.rs"]
mod passage_test;
