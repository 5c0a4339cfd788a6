//! W7: what a request costs when the mesh grows under a pair that goes on running: W2 with more and more services, then
//! with more rules for the service that is called. A sidecar knows what its app uses: so that the services are not only
//! the control plane's, the app connects to as many of them as [`TOUCHED`] says. 100,000 services are a workload of
//! their own, because applying them takes longer than all else.

use std::time::Instant;

use super::{LOAD_AVERAGE, WARM_UP, near, turn_of};
use crate::load::wrk::wrk;
use crate::peers::isthmus::Beside;
use crate::peers::isthmus::resources::{ballast, ballast_vip, policy};
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};
use crate::usage;

/// How many, and the figure.
type Sizes = &'static [(usize, &'static str)];

/// Other services in the mesh.
const SERVICES: Sizes = &[
    (10, "cpu_us_per_req_10_services"),
    (1_000, "cpu_us_per_req_1000_services"),
    (10_000, "cpu_us_per_req_10000_services"),
];
const SERVICES_MAX: Sizes = &[(10, "cpu_us_per_req_10_services"), (100_000, "cpu_us_per_req_100000_services")];
/// Rules of the policy, with all those services there.
const RULES: Sizes = &[(10, "cpu_us_per_req_10_rules"), (1_000, "cpu_us_per_req_1000_rules")];
/// Services that the app has used, at most: then they are in its sidecar's snapshot.
const TOUCHED: usize = 2_000;

pub(crate) const W7: Workload = Workload {
    name: "w7",
    what: "W2 while the mesh grows: other services in the mesh, with 100 rules; then rules of the policy",
    figures: &[
        Figure::plain("growth_services", "10,000 / 10 services", 2),
        Figure::plain("growth_rules", "1,000 / 10 rules", 2),
        Figure::plain("cpu_us_per_req_10_services", "CPU µs/request: 10 services", 2),
        Figure::plain("cpu_us_per_req_1000_services", "1,000", 2),
        Figure::plain("cpu_us_per_req_10000_services", "10,000", 2),
        Figure::plain("cpu_us_per_req_10_rules", "10 rules", 2),
        Figure::plain("cpu_us_per_req_1000_rules", "1,000", 2),
        Figure::plain("rss_mib_caller", "RSS MiB caller's", 1),
        Figure::plain("rss_mib_callee", "RSS MiB callee's", 1),
        Figure::plain("rss_mib_control", "RSS MiB control plane", 0),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Isthmus],
    rounds_at_most: 2,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Http))?;
        carry(bench, stage, &running, (SERVICES, RULES)).map_err(|error| running.explain(error))
    },
};

pub(crate) const W7_MAX: Workload = Workload {
    name: "w7max",
    what: "W2 with 10 and with 100,000 other services in the mesh, with 100 rules",
    figures: &[
        Figure::plain("growth_services", "100,000 / 10 services", 2),
        Figure::plain("cpu_us_per_req_10_services", "CPU µs/request: 10 services", 2),
        Figure::plain("cpu_us_per_req_100000_services", "100,000", 2),
        Figure::plain("rss_mib_caller", "RSS MiB caller's", 1),
        Figure::plain("rss_mib_callee", "RSS MiB callee's", 1),
        Figure::plain("rss_mib_control", "RSS MiB control plane", 0),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Isthmus],
    rounds_at_most: 1,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting::pair(Traffic::Http))?;
        carry(bench, stage, &running, (SERVICES_MAX, &[])).map_err(|error| running.explain(error))
    },
};

fn carry(
    bench: &Bench,
    mut stage: Stage,
    running: &Running,
    (services, rules): (Sizes, Sizes),
) -> Result<Turn, String> {
    let beside = running.beside.as_ref().ok_or("there is no control plane")?;
    let mut turn = turn_of(running);
    let mut there = 0;
    for (services, key) in services.iter().copied() {
        grow(&stage, beside, there, services)?;
        touch(&stage, there, services.min(TOUCHED))?;
        there = services;
        turn.values.insert(key, cost(bench, &stage, running)?);
    }
    for (rules, key) in rules.iter().copied() {
        beside.apply(&stage, "policy", &[policy(Traffic::Http, rules)])?;
        turn.values.insert(key, cost(bench, &stage, running)?);
    }
    for (key, sizes) in [("growth_services", services), ("growth_rules", rules)] {
        if let (Some((_, small)), Some((_, large))) = (sizes.first(), sizes.last()) {
            turn.values.insert(key, turn.values[large] / turn.values[small]);
        }
    }
    super::add_resident(&mut turn, &running.proxies, ["rss_mib_caller", "rss_mib_callee"])?;
    turn.values.insert("rss_mib_control", beside.control_bytes()? as f64 / super::MIB);
    stage.check()?;
    Ok(turn)
}

/// In steps: one file has 1,024 documents at most, one apply 4 MiB, and a person wants to see it go on.
fn grow(stage: &Stage, beside: &Beside, from: usize, to: usize) -> Result<(), String> {
    const FILE: usize = 1_000;
    const STEP: usize = 10_000;
    for step in (from..to).step_by(STEP) {
        let (start, next) = (Instant::now(), to.min(step + STEP));
        let files: Vec<String> = (step..next).step_by(FILE).map(|file| ballast(file, next.min(file + FILE))).collect();
        beside.apply(stage, &format!("services-{step}"), &files)?;
        eprintln!("w7: {next} other services; the last {} took {:.1} s", next - step, start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The app connects to each and leaves: its sidecar asks the control plane what that was.
fn touch(stage: &Stage, from: usize, to: usize) -> Result<(), String> {
    let done = stage.hosts.client.block_on(async move {
        for number in from..to {
            tokio::net::TcpStream::connect((ballast_vip(number), 80)).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    done.map_err(|error| format!("connecting to the services: {error}"))
}

fn cost(bench: &Bench, stage: &Stage, running: &Running) -> Result<f64, String> {
    let load = |length| wrk(&bench.programs.wrk, &stage.hosts.client, &running.url(), super::w2::CONNECTIONS, length);
    load(WARM_UP)?;
    let (load, used) = usage::during(&running.proxies, || load(bench.length))?;
    Ok(usage::total(&used) * 1e6 / load.requests)
}
