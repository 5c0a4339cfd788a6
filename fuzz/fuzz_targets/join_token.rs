//! Join tokens: what is accepted is written back and accepted again.
#![no_main]

use isthmus_certs::JoinToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = JoinToken::parse(text) {
        let again = JoinToken::parse(&token.format()).expect("what we write can be read");
        assert_eq!(again.address, token.address);
        assert_eq!(again.id, token.id);
    }
});
