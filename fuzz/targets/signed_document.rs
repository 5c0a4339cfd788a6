//! An attested document of arbitrary bytes, and a real one damaged: refused, or read as exactly what was signed.

use std::sync::LazyLock;

use isthmus_certs::{Clock, ManualClock, pem, signed_document};

/// Made with OpenSSL, as are the seeds: a root, and a document that a certificate below it has signed.
const ROOT: &[u8] = include_bytes!("../seeds/signed_document.root.pem");
const GOOD: &[u8] = include_bytes!("../seeds/signed_document/good.der");

static CAS: LazyLock<pem::PemParts> = LazyLock::new(|| pem::parse(ROOT).unwrap());

fn judge(document: &[u8]) -> Option<Vec<u8>> {
    let now = ManualClock::at_ms(1_800_000_000_000).now();
    signed_document::verify(document, &CAS.certificates, now).ok().map(|signed| signed.content)
}

// As the document it is, and as changes to the good one: pairs of place and value.
pub fn run(data: &[u8]) {
    let signed = judge(GOOD).expect("the good one is good");
    assert!(judge(data).is_none_or(|content| content == signed));
    let mut changed = GOOD.to_vec();
    for change in data.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    assert!(judge(&changed).is_none_or(|content| content == signed));
}
