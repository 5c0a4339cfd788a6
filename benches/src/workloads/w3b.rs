//! W3b: new connections of the app through the pair: connect, 64 bytes there and back, close, 32 at a time.

use super::{LOAD_AVERAGE, USER_SHARE, WARM_UP, add_microseconds, near, turn_of};
use crate::load::rate::rate;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};
use crate::usage;

const AT_A_TIME: usize = 32;

pub(crate) const W3B: Workload = Workload {
    name: "w3b",
    what: "pair over mTLS, new TCP connections with an echo of 64 bytes, 32 at a time, one worker thread per proxy",
    figures: &[
        Figure::compared("cpu_us_per_conn", "CPU µs/connection (pair)", 1),
        Figure::plain("cpu_us_per_conn_caller", "caller's", 1),
        Figure::plain("cpu_us_per_conn_callee", "callee's", 1),
        USER_SHARE,
        Figure::plain("connections_per_second", "connections/s", 0),
        Figure::plain("p50_us", "p50 µs", 0),
        Figure::plain("p99_us", "p99 µs", 0),
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
    let load = |length| rate(&stage.hosts.client, running.target, AT_A_TIME, length);
    load(WARM_UP / 2)?;
    let (load, used) = usage::during(&running.proxies, || load(bench.length))?;
    stage.check()?;
    let mut turn = turn_of(running);
    turn.values.insert("connections", load.connections);
    turn.values.insert("connections_per_second", load.per_second);
    turn.values.insert("p50_us", load.times.p50_us);
    turn.values.insert("p99_us", load.times.p99_us);
    let keys = ["cpu_us_per_conn", "cpu_us_per_conn_caller", "cpu_us_per_conn_callee"];
    add_microseconds(&mut turn, &used, load.connections, keys);
    Ok(turn)
}
