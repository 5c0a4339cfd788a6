//! W1: one hop, plain in and plain out. For ours one sidecar with capture, in front of an endpoint that has none, so
//! that there is no callee's policy on the way.

use super::{LOAD_AVERAGE, USER_SHARE, near, w2};
use crate::peers::{Hops, Peer, Setting};
use crate::rounds::{Figure, Workload};
use crate::stage::Traffic;

pub(crate) const W1: Workload = Workload {
    name: "w1",
    what: "one hop, plain in and out, HTTP/1.1 keep-alive GET of 128 bytes, wrk with 64 connections, one worker thread",
    figures: &[
        Figure::compared("cpu_us_per_req", "CPU µs/request", 2),
        USER_SHARE,
        Figure::plain("requests_per_second", "requests/s", 0),
        Figure::plain("p50_us", "p50 µs", 0),
        Figure::plain("p99_us", "p99 µs", 0),
        Figure::plain("rss_mib_caller", "RSS MiB", 1),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::Haproxy, Peer::Envoy, Peer::Nginx],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting { hops: Hops::One, ..Setting::pair(Traffic::Http) })?;
        w2::carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};
