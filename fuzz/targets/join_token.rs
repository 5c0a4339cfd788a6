//! Join tokens: what is accepted is written back and accepted again.

use isthmus_certs::JoinToken;

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = JoinToken::parse(text) {
        let again = JoinToken::parse(&token.format()).expect("what we write can be read");
        assert_eq!(again.address, token.address);
        assert_eq!(again.id, token.id);
    }
}
