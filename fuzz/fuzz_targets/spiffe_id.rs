//! SPIFFE ids have one spelling.
#![no_main]

use isthmus_certs::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert_eq!(
            SpiffeId::workload(id.trust_domain(), id.namespace(), id.service_account()).ok(),
            Some(id)
        );
    }
});
