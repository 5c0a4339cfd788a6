//! The verdict on first bytes: the same however they are cut, and never later than the bound.

use isthmus_proxy::detect::{LONGEST_PREFIX, Verdict, classify};

pub fn run(bytes: &[u8]) {
    let mut found = None;
    for end in 0..=bytes.len().min(2 * LONGEST_PREFIX) {
        match (found, classify(&bytes[..end])) {
            (Some(before), now) => assert_eq!(Verdict::Known(before), now),
            (None, Verdict::Known(protocol)) => found = Some(protocol),
            (None, Verdict::More) => assert!(end < LONGEST_PREFIX),
        }
    }
}
