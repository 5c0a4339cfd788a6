//! Certificate requests of anybody who can reach the control plane.

pub fn run(der: &[u8]) {
    let _ = isthmus_certs::csr::verify(der);
}
