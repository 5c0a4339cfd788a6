//! What the kernel (or whoever speaks in its place) answers: messages, attributes, refusals, rules.

use isthmus_netlink::{Received, attributes, messages, refusal};
use isthmus_proxy::redirect::expression::decode;

pub fn run(bytes: &[u8]) {
    for message in messages(bytes).flatten() {
        let _ = refusal(&message);
        let _ = attributes(message.payload).count();
        let _ = decode(message.payload);
    }
    let _ = refusal(&Received { kind: Received::ERROR, flags: 0x300, sequence: 0, payload: bytes });
    let _ = decode(bytes);
}
