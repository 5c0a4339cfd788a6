//! W2g: gRPC through the pair: unary calls of 128 bytes each way, 64 streams on 4 connections, closed loop.

use super::{LOAD_AVERAGE, USER_SHARE, WARM_UP, add_microseconds, add_resident, add_spans, near, turn_of};
use crate::load::grpc::calls;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};
use crate::usage;

const CONNECTIONS: usize = 4;
const STREAMS_EACH: usize = 16;

pub(crate) const W2G: Workload = Workload {
    name: "w2g",
    what: "pair over mTLS, gRPC unary calls of 128 bytes, 64 streams on 4 connections, one worker thread per proxy",
    figures: &[
        Figure::compared("cpu_us_per_req", "CPU µs/call (pair)", 2),
        Figure::plain("cpu_us_per_req_caller", "caller's", 2),
        Figure::plain("cpu_us_per_req_callee", "callee's", 2),
        USER_SHARE,
        Figure::plain("requests_per_second", "calls/s", 0),
        Figure::plain("p50_us", "p50 µs", 0),
        Figure::plain("p99_us", "p99 µs", 0),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::HaproxyH2, Peer::EnvoyH2, Peer::Linkerd2Proxy],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Grpc))?;
        carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};

fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let load = |length| calls(&stage.hosts.client, running.target, (CONNECTIONS, STREAMS_EACH), length);
    load(WARM_UP)?;
    let (load, used) = usage::during(&running.proxies, || load(bench.length))?;
    stage.check()?;
    let mut turn = turn_of(running);
    turn.values.insert("requests", load.calls);
    turn.values.insert("requests_per_second", load.per_second);
    turn.values.insert("p50_us", load.times.p50_us);
    turn.values.insert("p99_us", load.times.p99_us);
    let keys = ["cpu_us_per_req", "cpu_us_per_req_caller", "cpu_us_per_req_callee"];
    add_microseconds(&mut turn, &used, load.calls, keys);
    add_resident(&mut turn, &running.proxies, ["rss_mib_caller", "rss_mib_callee"])?;
    add_spans(&mut turn, running)?;
    Ok(turn)
}
