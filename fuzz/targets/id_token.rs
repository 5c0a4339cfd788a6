//! An id token of an OIDC provider, and its key set: read or refused, and no token but the one that was signed is accepted.

use isthmus_control::operators::oidc::jwt::{Expected, Keys, verify};
use std::sync::LazyLock;

const GOOD: &str = include_str!("../seeds/id_token/good");

static KEYS: LazyLock<Keys> =
    LazyLock::new(|| Keys::read(include_bytes!("../seeds/id_token/keys.json")).expect("a key set"));

/// Whether it is accepted.
pub fn accepted(text: &str) -> bool {
    let expected = Expected {
        issuer: "https://login.example/v2.0",
        audience: "isthmus",
        nonce: "n",
        nonce_required: true,
        groups_claim: "groups",
        now_s: 1_800_000_000,
    };
    verify(text, &KEYS, expected).is_ok()
}

pub fn run(bytes: &[u8]) {
    let _ = Keys::read(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(!accepted(text) || text == GOOD);
}
