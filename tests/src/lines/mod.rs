//! The numbered lines of the demo: what the mesh promises, each shown on real processes. The demo prints them; the
//! end-to-end suite runs the same functions as tests.

mod allowed;
mod denied;
mod enrolled;
mod killed;
mod plaintext;
mod pushed;
mod rotated;
mod sql;
mod tls;
pub mod traced;

use serde_json::Value;

use crate::mesh::Mesh;

/// What a line has shown.
#[derive(Debug)]
pub struct Shown {
    /// One sentence with the numbers.
    pub summary: String,
    /// Further lines for a person.
    pub more: Vec<String>,
    /// The same for machines.
    pub facts: Value,
}

/// One promise and how it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub number: usize,
    pub id: &'static str,
    pub title: &'static str,
    /// `Err` is what was not so, in words.
    pub show: fn(&mut Mesh) -> Result<Shown, String>,
}

/// In the order in which the demo shows them. The last one needs PostgreSQL.
pub const LINES: &[Line] = &[
    Line { number: 1, id: "enrolled", title: "every sidecar has its own identity", show: enrolled::show },
    Line { number: 2, id: "allowed", title: "web → orders over mTLS", show: allowed::show },
    Line { number: 3, id: "denied", title: "batch → orders is refused by the allow-list", show: denied::show },
    Line { number: 4, id: "plaintext", title: "plaintext past the sidecar is refused", show: plaintext::show },
    Line { number: 5, id: "tls-version", title: "TLS 1.1 is refused, TLS 1.3 accepted", show: tls::show },
    Line {
        number: 6,
        id: "pushed",
        title: "a policy is in force everywhere; an invalid one changes nothing",
        show: pushed::show,
    },
    Line { number: 7, id: "rotated", title: "certificates rotate under load", show: rotated::show },
    Line { number: 8, id: "killed", title: "the control plane is killed under load", show: killed::show },
    Line { number: 9, id: "traced", title: "one request, and where its time went", show: traced::show },
    Line { number: 10, id: "postgres", title: "psql → PostgreSQL as L4 traffic", show: sql::show },
];

/// A promise that is not kept, in words.
pub(crate) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
