use std::sync::Arc;

use isthmus_certs::ManualClock;

use super::*;

fn moment(wall_s: i64, ran_s: u64, slept_s: u64) -> Moment {
    let start = *START.get_or_init(Instant::now);
    Moment {
        wall_ms: wall_s * 1_000,
        monotonic: start + Duration::from_secs(ran_s),
        slept: Duration::from_secs(slept_s),
    }
}

impl Moment {
    fn to(self, later: Moment) -> Option<Jump> {
        self.jump_to(later, LEAST)
    }
}

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

#[test]
fn sleep_and_a_clock_that_was_set_are_told_apart_from_time() {
    let start = moment(1_000, 0, 5);
    assert_eq!(start.to(moment(1_002, 2, 5)), None);
    assert_eq!(start.to(moment(1_060, 60, 5)), None, "a process that was not scheduled for a minute");
    assert_eq!(start.to(moment(1_020, 2, 5)), None, "a small step");
    assert_eq!(start.to(moment(4_602, 2, 3_605)), Some(Jump::Slept(Duration::from_secs(3_600))));
    assert_eq!(start.to(moment(4_602, 2, 5)), Some(Jump::Set(3_600_000)));
    assert_eq!(start.to(moment(402, 2, 5)), Some(Jump::Set(-600_000)));
}

#[tokio::test(start_paused = true)]
async fn a_jump_is_noticed_within_seconds() {
    let clock = Arc::new(ManualClock::at_ms(0));
    let began = Instant::now();
    let watching = {
        let clock = Arc::clone(&clock);
        tokio::spawn(async move { next_jump(&*clock, Duration::from_secs(86_400)).await })
    };
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.advance(Duration::from_secs(1));
    }
    assert!(!watching.is_finished(), "time alone is no jump");
    clock.advance(Duration::from_secs(3_600));
    let Jump::Set(by) = watching.await.unwrap() else { panic!("this machine did not sleep") };
    assert!((3_590_000..=3_610_000).contains(&by), "{by}");
    assert!(began.elapsed() <= Duration::from_secs(33));
}
