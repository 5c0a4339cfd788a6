//! W2: a pair of sidecars with mutual TLS between them; HTTP/1.1 keep-alive GET of 128 bytes on 64 connections.

use super::{LOAD_AVERAGE, USER_SHARE, WARM_UP, add_microseconds, add_resident, add_spans, near, turn_of};
use crate::load::wrk::wrk;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};
use crate::usage;

pub(super) const CONNECTIONS: u32 = 64;

pub(crate) const W2: Workload = Workload {
    name: "w2",
    what: "pair over mTLS, HTTP/1.1 keep-alive GET of 128 bytes, wrk with 64 connections, one worker thread per proxy",
    figures: &[
        Figure::compared("cpu_us_per_req", "CPU µs/request (pair)", 2),
        Figure::plain("cpu_us_per_req_caller", "caller's", 2),
        Figure::plain("cpu_us_per_req_callee", "callee's", 2),
        USER_SHARE,
        Figure::plain("requests_per_second", "requests/s", 0),
        Figure::plain("p50_us", "p50 µs", 0),
        Figure::plain("p99_us", "p99 µs", 0),
        Figure::plain("rss_mib_caller", "RSS MiB caller's", 1),
        Figure::plain("rss_mib_callee", "RSS MiB callee's", 1),
        LOAD_AVERAGE,
    ],
    contenders: &[
        Peer::Direct,
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
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Http))?;
        carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};

/// W1 and W2 differ in what is on the way, not in the load.
pub(super) fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let load = |length| wrk(&bench.programs.wrk, &stage.hosts.client, &running.url(), CONNECTIONS, length);
    load(WARM_UP)?;
    let (load, used) = usage::during(&running.proxies, || load(bench.length))?;
    stage.check()?;
    let mut turn = turn_of(running);
    turn.values.insert("requests", load.requests);
    turn.values.insert("requests_per_second", load.requests_per_second);
    turn.values.insert("p50_us", load.p50_us);
    turn.values.insert("p99_us", load.p99_us);
    let keys = ["cpu_us_per_req", "cpu_us_per_req_caller", "cpu_us_per_req_callee"];
    add_microseconds(&mut turn, &used, load.requests, keys);
    add_resident(&mut turn, &running.proxies, ["rss_mib_caller", "rss_mib_callee"])?;
    add_spans(&mut turn, running)?;
    Ok(turn)
}
