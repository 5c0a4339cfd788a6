//! The last good snapshot on a proxy's disk: read, or refused with a reason.

use isthmus_proxy::control::parse_last_good;

pub fn run(bytes: &[u8]) {
    match parse_last_good(bytes) {
        Ok(unchecked) => assert!(!format!("{unchecked:?}").is_empty()),
        Err(refused) => assert!(refused.to_string().starts_with("last-good")),
    }
}
