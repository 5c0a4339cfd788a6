use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

#[test]
fn half_of_a_day_is_noon_give_or_take() {
    assert_eq!(next_renewal(0, 0, DAY_MS, 0.5), DAY_MS / 2);
    assert_eq!(next_renewal(0, 0, DAY_MS, 0.0), DAY_MS / 10 * 4);
    assert_eq!(next_renewal(0, 0, DAY_MS, 1.0), DAY_MS / 10 * 6);
}

#[test]
fn a_two_second_certificate_is_renewed_after_one() {
    assert_eq!(next_renewal(1000, 1000, 3000, 0.5), 2000);
    // After a failure there is time for several tries.
    assert!(retry_after(1, 2000, 3000, 1.0) <= Duration::from_millis(100));
}

#[test]
fn retries_double_to_five_minutes() {
    let wait = |failures| retry_after(failures, 0, 365 * DAY_MS, 1.0).as_secs();
    assert_eq!([1, 2, 3, 9, 10, 40, u32::MAX].map(wait), [1, 2, 4, 256, 300, 300, 300]);
    assert_eq!(retry_after(0, 0, 365 * DAY_MS, 1.0).as_secs(), 1);
    // Ended: as if there were time, or a fleet would storm the control plane that just came back.
    assert_eq!(retry_after(40, DAY_MS, 0, 1.0).as_secs(), 300);
}

#[test]
fn a_clock_that_is_ahead_makes_no_storm() {
    // Right: the jittered half of the life comes later or at the same time.
    assert_eq!(not_again_before(0, 0, DAY_MS), DAY_MS / 10 * 4);
    // Ahead by nine tenths of the life, by all of it, and by a month.
    assert_eq!(not_again_before(DAY_MS / 10 * 9, 0, DAY_MS), DAY_MS / 10 * 9 + DAY_MS / 20);
    assert_eq!(not_again_before(DAY_MS, 0, DAY_MS), DAY_MS + DAY_MS / 100);
    assert_eq!(not_again_before(31 * DAY_MS, 0, DAY_MS), 31 * DAY_MS + DAY_MS / 100);
}

proptest! {
    #[test]
    fn a_renewal_is_never_in_the_past_and_early_enough(
        issued in 0..=i64::MAX / 4, life in 0..=400 * DAY_MS, waited in 0..=800 * DAY_MS, jitter in 0.0..=1.0f64,
    ) {
        let (now, end) = (issued + waited, issued + life);
        let at = next_renewal(now, issued, end, jitter);
        prop_assert!(at >= now);
        if waited <= life * 4 / 10 {
            // Rounding of f64 at these sizes stays below a second.
            prop_assert!(at >= issued + life / 10 * 4 - 1000 && at <= issued + life / 10 * 6 + 1000);
        }
    }

    #[test]
    fn a_fleet_spreads_over_a_fifth_of_the_life(life in 10_000..=400 * DAY_MS) {
        let (first, last) = (next_renewal(0, 0, life, 0.0), next_renewal(0, 0, life, 1.0));
        prop_assert!(last - first >= life / 5 - 10);
    }

    #[test]
    fn a_retry_fits_into_what_is_left(failures in 0..100u32, left in 1..=400 * DAY_MS, jitter in 0.0..=1.0f64) {
        let wait = retry_after(failures, 0, left, jitter);
        prop_assert!(wait >= MIN_RETRY && wait <= MAX_RETRY);
        prop_assert!(wait <= Duration::from_millis(left as u64 / 10).max(MIN_RETRY));
    }

    /// Plays a workload against a control plane that is away for up to a quarter of a certificate's life.
    #[test]
    fn no_certificate_ends_while_a_control_plane_restarts(
        life in 2_000..=DAY_MS, away_at in 0.0..10.0f64, away_for in 0.0..0.25f64,
        jitters in proptest::collection::vec(0.0..=1.0f64, 64),
    ) {
        let away = (life as f64 * away_at) as i64..(life as f64 * (away_at + away_for)) as i64;
        let mut jitters = jitters.into_iter().cycle();
        let (mut issued, mut failures) = (0, 0);
        let mut now = next_renewal(0, issued, issued + life, jitters.next().unwrap());
        while now < 12 * life {
            prop_assert!(now < issued + life, "ended at {now}, issued at {issued}, away {away:?}");
            if away.contains(&now) {
                failures += 1;
                now += retry_after(failures, now, issued + life, jitters.next().unwrap()).as_millis() as i64;
            } else {
                (issued, failures) = (now, 0);
                now = next_renewal(now, issued, issued + life, jitters.next().unwrap());
            }
        }
    }

    #[test]
    fn no_input_panics(now: i64, issued: i64, end: i64, jitter: f64, failures: u32) {
        prop_assert!(next_renewal(now, issued, end, jitter) >= now);
        let _ = retry_after(failures, now, end, jitter);
        prop_assert!(not_again_before(now, issued, end) >= now);
        prop_assert!(spread(now, Duration::from_secs(u64::from(failures)), jitter) >= now);
    }
}
