//! Certificate requests of anybody who can reach the control plane.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let _ = isthmus_certs::csr::verify(der);
});
