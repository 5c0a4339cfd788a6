//! W4: memory of both proxies: idle, with 1,000 and with 10,000 idle connections of the app (each after one exchange),
//! and after they closed. Once over HTTP, where the peers share connections between the two as ours do; once as opaque
//! TCP, where the peers need one for each of the app's, and with it two descriptors: so there are 9,500 of them, within
//! the limit of 20,000 that machines of this kind have.

use std::time::{Duration, Instant};

use super::{LOAD_AVERAGE, near, resident, turn_of};
use crate::load::hold::hold;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};

const FEW: usize = 1_000;
const MANY_HTTP: usize = 10_000;
const MANY_BYTES: usize = 9_500;
/// Between the last exchange and the look, and at most between the end and the last look.
const SETTLE: Duration = Duration::from_secs(1);
const RETURNED: Duration = Duration::from_secs(5);
/// Memory counts as returned when it is within this share of what was idle.
const NEAR_IDLE: f64 = 1.15;

pub(crate) const W4: Workload = Workload {
    name: "w4",
    what: "memory of a pair over mTLS with idle HTTP/1.1 connections of the app, each after one request",
    figures: &FIGURES,
    contenders: &[Peer::Isthmus, Peer::HaproxyH2, Peer::EnvoyH2, Peer::NginxH1, Peer::Linkerd2Proxy],
    rounds_at_most: 2,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Http))?;
        carry(stage, &running, Traffic::Http, MANY_HTTP).map_err(|error| running.explain(error))
    },
};

pub(crate) const W4_L4: Workload = Workload {
    name: "w4l4",
    what: "memory of a pair over mTLS with idle opaque TCP connections of the app, each after an echo (9,500 for 10,000)",
    figures: &FIGURES,
    contenders: &[Peer::Isthmus, Peer::Haproxy, Peer::Envoy, Peer::Ztunnel, Peer::Linkerd2Proxy],
    rounds_at_most: 1,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Bytes))?;
        carry(stage, &running, Traffic::Bytes, MANY_BYTES).map_err(|error| running.explain(error))
    },
};

const FIGURES: [Figure; 12] = [
    Figure::compared("kib_per_conn", "KiB/connection (pair)", 2),
    Figure::plain("kib_per_conn_caller", "caller's", 2),
    Figure::plain("kib_per_conn_callee", "callee's", 2),
    Figure::compared("rss_mib_idle", "RSS MiB idle caller's", 1),
    Figure::plain("rss_mib_idle_callee", "callee's", 1),
    Figure::plain("rss_mib_1000", "1,000: caller's", 1),
    Figure::plain("rss_mib_1000_callee", "callee's", 1),
    Figure::plain("rss_mib_10000", "10,000: caller's", 1),
    Figure::plain("rss_mib_10000_callee", "callee's", 1),
    Figure::plain("rss_mib_closed", "closed: caller's", 1),
    Figure::plain("rss_mib_closed_callee", "callee's", 1),
    LOAD_AVERAGE,
];

fn carry(mut stage: Stage, running: &Running, traffic: Traffic, many: usize) -> Result<Turn, String> {
    let mut turn = turn_of(running);
    let mut look = |keys: [&'static str; 2]| -> Result<Vec<f64>, String> {
        std::thread::park_timeout(SETTLE);
        let now = resident(&running.proxies)?;
        turn.values.extend(keys.into_iter().zip(now.iter().copied()));
        Ok(now)
    };
    let open = |count| hold(&stage.hosts.client, running.target, traffic, count);
    let idle = look(["rss_mib_idle", "rss_mib_idle_callee"])?;
    let few = open(FEW)?;
    look(["rss_mib_1000", "rss_mib_1000_callee"])?;
    let rest = open(many - FEW)?;
    let full = look(["rss_mib_10000", "rss_mib_10000_callee"])?;
    drop((few, rest));
    let until = Instant::now() + RETURNED;
    while Instant::now() < until {
        let now = look(["rss_mib_closed", "rss_mib_closed_callee"])?;
        if now.iter().zip(&idle).all(|(now, idle)| *now < idle * NEAR_IDLE) {
            break;
        }
    }
    stage.check()?;
    let each: Vec<f64> = full.iter().zip(&idle).map(|(full, idle)| (full - idle) * 1024.0 / many as f64).collect();
    turn.values.insert("kib_per_conn", each.iter().sum());
    turn.values.extend(["kib_per_conn_caller", "kib_per_conn_callee"].into_iter().zip(each));
    Ok(turn)
}
