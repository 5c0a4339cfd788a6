//! What telemetry costs: W2's load through the same pair with nothing traced, with 1 % and with every request traced, and with
//! what the control plane keeps where there is no collector. Each is compared with the first.

use super::{near, w2};
use crate::peers::{Peer, Setting};
use crate::rounds::Workload;
use crate::stage::Traffic;

pub(crate) const TELEMETRY: Workload = Workload {
    name: "telemetry",
    what: "W2 with everything traced, with 1 %, and with what the control plane keeps; ratio: over nothing traced (isthmus-off)",
    figures: w2::W2.figures,
    contenders: &[Peer::Isthmus, Peer::IsthmusOff, Peer::IsthmusAll, Peer::IsthmusKept],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Http))?;
        w2::carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};
