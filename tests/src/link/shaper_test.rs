use std::time::Duration;

use super::super::LinkShape;
use super::{Fate, Shaper};

const MILLISECOND: u64 = 1_000_000;

fn shape() -> LinkShape {
    LinkShape { bandwidth: None, ..LinkShape::default() }
}

#[test]
fn a_frame_is_held_for_half_of_the_round_trip() {
    let mut shaper = Shaper::new(shape(), 0);
    assert_eq!(shaper.admit(5 * MILLISECOND, 1500), Fate::Leaves(7 * MILLISECOND));
}

#[test]
fn frames_take_turns_on_the_wire() {
    // 12 Mbit/s: 1500 bytes take one millisecond.
    let mut shaper = Shaper::new(LinkShape { bandwidth: Some(12_000_000), ..shape() }, 0);
    assert_eq!(shaper.admit(0, 1500), Fate::Leaves(3 * MILLISECOND));
    assert_eq!(shaper.admit(0, 1500), Fate::Leaves(4 * MILLISECOND));
    assert_eq!(shaper.admit(10 * MILLISECOND, 1500), Fate::Leaves(13 * MILLISECOND), "an idle wire is free at once");
}

#[test]
fn a_full_queue_drops_the_newest_frame() {
    let slow = LinkShape { bandwidth: Some(12_000_000), queue_bytes: 4500, ..shape() };
    let mut shaper = Shaper::new(slow, 0);
    let fates: Vec<Fate> = (0..5).map(|_| shaper.admit(0, 1500)).collect();
    assert_eq!(fates[2], Fate::Leaves(5 * MILLISECOND));
    assert_eq!(fates[3..], [Fate::QueueFull, Fate::QueueFull]);
    assert!(matches!(shaper.admit(2 * MILLISECOND, 1500), Fate::Leaves(_)), "room again as the wire moves on");
}

#[test]
fn frames_do_not_overtake_when_the_delay_shrinks() {
    let mut shaper = Shaper::new(shape(), 0);
    assert_eq!(shaper.admit(0, 100), Fate::Leaves(2 * MILLISECOND));
    shaper.reshape(LinkShape { round_trip: Duration::ZERO, ..shape() }, 0);
    assert_eq!(shaper.admit(MILLISECOND, 100), Fate::Leaves(2 * MILLISECOND));
}

#[test]
fn loss_has_its_rate_and_repeats_with_its_seed() {
    let lossy = LinkShape { loss: 0.1, seed: 7, ..shape() };
    let losses = |direction| {
        let mut shaper = Shaper::new(lossy, direction);
        (0..10_000).map(|now| shaper.admit(now, 100) == Fate::Lost).collect::<Vec<_>>()
    };
    let lost = losses(0).iter().filter(|lost| **lost).count();
    assert!((900..1100).contains(&lost), "{lost} of 10,000");
    assert_eq!(losses(0), losses(0));
    assert_ne!(losses(0), losses(1), "the directions lose different frames");
}
