//! The verdict on first bytes: the same however they are cut, and never later than the bound.
#![no_main]

use isthmus_proxy::detect::{LONGEST_PREFIX, Verdict, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut found = None;
    for end in 0..=bytes.len().min(2 * LONGEST_PREFIX) {
        match (found, classify(&bytes[..end])) {
            (Some(before), now) => assert_eq!(Verdict::Known(before), now),
            (None, Verdict::Known(protocol)) => found = Some(protocol),
            (None, Verdict::More) => assert!(end < LONGEST_PREFIX),
        }
    }
});
