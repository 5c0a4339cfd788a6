//! W5: latency of the pair at a rate that is easy for all: 1,000 requests a second, evenly spaced over 16 connections.
//! What a contender adds is seen against the same requests without any proxy, sent just before in the same turn.

use std::time::Duration;

use super::{LOAD_AVERAGE, WARM_UP, add_microseconds, add_spans, turn_of};
use crate::load::pace::{Pace, pace};
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{APP_PORT, Stage, Traffic};
use crate::usage;

const CONNECTIONS: u32 = 16;
const PER_SECOND: u32 = 1_000;

pub(crate) const W5: Workload = Workload {
    name: "w5",
    what: "pair over mTLS, 1,000 HTTP/1.1 GET/s evenly spaced over 16 connections (open loop), times from when each was due",
    figures: &[
        Figure::compared("added_p99_us", "added p99 µs", 0),
        Figure::compared("added_p50_us", "added p50 µs", 0),
        Figure::plain("p50_us", "p50 µs", 0),
        Figure::plain("p99_us", "p99 µs", 0),
        Figure::plain("direct_p50_us", "direct p50", 0),
        Figure::plain("direct_p99_us", "direct p99", 0),
        Figure::plain("cpu_us_per_req", "CPU µs/request (pair)", 1),
        LOAD_AVERAGE,
    ],
    contenders: &[
        Peer::Isthmus,
        Peer::HaproxyH2,
        Peer::HaproxyH1,
        Peer::EnvoyH2,
        Peer::NginxH1,
        Peer::Ztunnel,
        Peer::Linkerd2Proxy,
    ],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let stage = Stage::near(&bench.programs, Traffic::Http)?;
        // Before the contender is there: it captures, and would be in the way.
        let app = stage.hosts.server.socket(APP_PORT);
        let (direct, _) = pace(&stage.hosts.client, app, at_most(bench.length / 2))?;
        let setting = Setting::pair(Traffic::Http);
        let running = peer.start(&bench.programs, &bench.certificates, &stage, setting)?;
        let mut turn = carry(bench, stage, &running).map_err(|error| running.explain(error))?;
        turn.values.insert("direct_p50_us", direct.p50_us);
        turn.values.insert("direct_p99_us", direct.p99_us);
        turn.values.insert("added_p50_us", turn.values["p50_us"] - direct.p50_us);
        turn.values.insert("added_p99_us", turn.values["p99_us"] - direct.p99_us);
        Ok(turn)
    },
};

fn at_most(length: Duration) -> Pace {
    Pace { connections: CONNECTIONS, per_second: PER_SECOND, length }
}

fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let load = |length| pace(&stage.hosts.client, running.target, at_most(length));
    load(WARM_UP)?;
    let ((times, requests), used) = usage::during(&running.proxies, || load(bench.length))?;
    stage.check()?;
    let mut turn = turn_of(running);
    turn.values.insert("requests", requests);
    turn.values.insert("p50_us", times.p50_us);
    turn.values.insert("p99_us", times.p99_us);
    let keys = ["cpu_us_per_req", "cpu_us_per_req_caller", "cpu_us_per_req_callee"];
    add_microseconds(&mut turn, &used, requests, keys);
    add_spans(&mut turn, running)?;
    Ok(turn)
}
