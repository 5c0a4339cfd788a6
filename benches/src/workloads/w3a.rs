//! W3a: bulk TCP through the pair, one and four streams, up and down, one after the other in the same turn.

use super::{LOAD_AVERAGE, add_resident, near, turn_of};
use crate::load::bulk::{Way, bulk};
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};
use crate::usage;

use std::time::Duration;

/// Streams and way, the figure, and the rate's.
const PARTS: [((usize, Way), &str, &str); 4] = [
    ((4, Way::Up), "cpu_s_per_gb", "gbit_per_second"),
    ((4, Way::Down), "cpu_s_per_gb_down", "gbit_per_second_down"),
    ((1, Way::Up), "cpu_s_per_gb_1", "gbit_per_second_1"),
    ((1, Way::Down), "cpu_s_per_gb_1_down", "gbit_per_second_1_down"),
];
/// For windows to open and buffers to grow.
const WARM_UP: Duration = Duration::from_millis(300);

pub(crate) const W3A: Workload = Workload {
    name: "w3a",
    what: "pair over mTLS, bulk TCP, one worker thread per proxy",
    figures: &[
        Figure::compared("cpu_s_per_gb", "4 streams up: CPU s/GB (pair)", 2),
        Figure::compared("cpu_s_per_gb_down", "4 down", 2),
        Figure::compared("cpu_s_per_gb_1", "1 up", 2),
        Figure::compared("cpu_s_per_gb_1_down", "1 down", 2),
        Figure::plain("gbit_per_second", "Gbit/s 4 up", 1),
        Figure::plain("gbit_per_second_down", "4 down", 1),
        Figure::plain("gbit_per_second_1", "1 up", 1),
        Figure::plain("gbit_per_second_1_down", "1 down", 1),
        Figure::plain("rss_mib_caller", "RSS MiB caller's", 1),
        Figure::plain("rss_mib_callee", "RSS MiB callee's", 1),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::Haproxy, Peer::Envoy, Peer::Ztunnel, Peer::Linkerd2Proxy],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Bytes))?;
        carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};

fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let mut turn = turn_of(running);
    for (kind, cost, rate) in PARTS {
        let load = |warm_up, length| bulk(&stage.hosts.client, running.target, kind, warm_up, length);
        load(Duration::ZERO, WARM_UP)?;
        let (bulk, used) = usage::during(&running.proxies, || load(Duration::ZERO, bench.length / 2))?;
        if bulk.bytes == 0.0 {
            return Err(format!("nothing went through {}", running.target));
        }
        if !used.is_empty() {
            turn.values.insert(cost, usage::total(&used) / bulk.gigabytes());
        }
        turn.values.insert(rate, bulk.gigabits_per_second());
    }
    add_resident(&mut turn, &running.proxies, ["rss_mib_caller", "rss_mib_callee"])?;
    stage.check()?;
    Ok(turn)
}
