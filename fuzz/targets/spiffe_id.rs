//! SPIFFE ids have one spelling.

use isthmus_certs::SpiffeId;

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert_eq!(SpiffeId::workload(id.trust_domain(), id.namespace(), id.service_account()).ok(), Some(id));
    }
}
