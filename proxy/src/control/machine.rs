//! What machine this is, as the control plane is told so that two that use one identity are told apart and named. The ids
//! themselves do not leave the host: a machine's id is a secret of its own (machine-id(5)).

use std::fs;

use isthmus_certs::sha256;
use isthmus_proto::identity::v1::Machine;

/// So that the hash of our use is not that of anybody else's.
const CONTEXT: &str = "isthmus machine, v1";

/// Read anew each time: a machine that was cloned while it ran is given another id then.
pub(super) fn this() -> Machine {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Machine {
        id: hashed("/etc/machine-id"),
        boot: hashed("/proc/sys/kernel/random/boot_id"),
        name: name.trim().chars().filter(|c| c.is_ascii_graphic()).take(64).collect(),
    }
}

/// Empty where there is no such file: containers often have none.
fn hashed(path: &str) -> Vec<u8> {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "" => Vec::new(),
        id => sha256(format!("{CONTEXT}\0{id}").as_bytes()).to_vec(),
    }
}
