//! What a resolver answers: whatever it is, it is read or refused, and an answer to another question is never believed.

use isthmus_proxy::dns::message::{Answer, Kind, answer, query};

pub fn run(bytes: &[u8]) {
    for kind in [Kind::A, Kind::Aaaa] {
        // With its own id, as somebody who saw the question would answer.
        let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        if let Ok(Answer::Addresses(found, _)) = answer(bytes, id, "api.example", kind) {
            let asked = query(id, "api.example", kind).expect("a name");
            assert!(found.iter().all(|ip| ip.is_ipv4() == (kind == Kind::A)));
            assert!(
                bytes[12..].len() >= asked[12..].len() && bytes[12..asked.len()].eq_ignore_ascii_case(&asked[12..])
            );
        }
    }
}
