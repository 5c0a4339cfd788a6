//! W6, second part: the link is cut under running callers for three seconds and comes back. A request whose answer came
//! late is not lost; one that failed or was never answered is.

use std::time::Duration;

use isthmus_world::LinkShape;

use super::{LOAD_AVERAGE, turn_of};
use crate::load::steady::Steady;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};

const CALLERS: usize = 16;
const BEFORE: Duration = Duration::from_secs(1);
const CUT: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(3);

pub(crate) const W6_CUT: Workload = Workload {
    name: "w6cut",
    what: "pair over mTLS and a link of 10 ms that is cut for 3 s under 16 callers: requests lost (HTTP/1.1 GET)",
    figures: &[
        Figure::plain("requests_lost", "requests lost", 0),
        Figure::plain("requests_answered", "answered", 0),
        Figure::plain("longest_ms", "longest ms", 0),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::HaproxyH2, Peer::EnvoyH2, Peer::Linkerd2Proxy],
    rounds_at_most: 1,
    turn: |bench, peer| {
        let shape = LinkShape { round_trip: Duration::from_millis(10), ..LinkShape::default() };
        let stage = Stage::far(&bench.programs, Traffic::Http, shape)?;
        let setting = Setting::pair(Traffic::Http);
        let running = peer.start(&bench.programs, &bench.certificates, &stage, setting)?;
        carry(stage, &running).map_err(|error| running.explain(error))
    },
};

fn carry(mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let callers = Steady::start(&stage.hosts.client, running.target, CALLERS);
    std::thread::park_timeout(BEFORE);
    stage.link()?.cut();
    std::thread::park_timeout(CUT);
    stage.link()?.restore();
    std::thread::park_timeout(AFTER);
    let counted = callers.end();
    stage.check()?;
    if counted.answered == 0 {
        return Err("no request was answered at all".to_owned());
    }
    let mut turn = turn_of(running);
    turn.values.insert("requests_lost", counted.lost as f64);
    turn.values.insert("requests_answered", counted.answered as f64);
    turn.values.insert("longest_ms", counted.longest.as_secs_f64() * 1e3);
    Ok(turn)
}
