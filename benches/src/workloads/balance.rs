//! Balance: four workers and few callers. Not a speed: how much of the work the busiest worker of each side does. With
//! four workers a quarter would be even; with 8 connections placed by the kernel's hash, half is common.

use std::fs;
use std::time::Duration;

use isthmus_world::{Host, Process};
use rustix::param::clock_ticks_per_second;

use super::{LOAD_AVERAGE, WARM_UP, near, turn_of};
use crate::load::wrk::wrk;
use crate::peers::isthmus::metrics;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};

const WORKERS: usize = 4;
const CONNECTIONS: u32 = 8;

pub(crate) const BALANCE: Workload = Workload {
    name: "balance",
    what: "pair over mTLS with 4 workers each, W2's requests on 8 connections: the busiest worker's share",
    figures: &[
        Figure::plain("connections_share_caller", "of connections: caller's", 2),
        Figure::plain("connections_share_callee", "callee's", 2),
        Figure::plain("cpu_share_caller", "of CPU time: caller's", 2),
        Figure::plain("cpu_share_callee", "callee's", 2),
        Figure::plain("requests_per_second", "requests/s", 0),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Isthmus],
    rounds_at_most: 2,
    turn: |bench, peer| {
        let (stage, running) = near(bench, peer, Setting { workers: WORKERS, ..Setting::pair(Traffic::Http) })?;
        carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};

fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let mut turn = turn_of(running);
    let load = |length: Duration| wrk(&bench.programs.wrk, &stage.hosts.client, &running.url(), CONNECTIONS, length);
    load(WARM_UP)?;
    let threads = || running.proxies.iter().map(worker_ticks).collect::<Result<Vec<_>, _>>();
    let before = threads()?;
    // In the middle of the load, while its connections are there.
    let (load, counted) = std::thread::scope(|scope| {
        let counted = scope.spawn(|| {
            std::thread::park_timeout(bench.length / 2);
            [&stage.hosts.client, &stage.hosts.server].map(connections)
        });
        (load(bench.length), counted.join())
    });
    let load = load?;
    let counted = counted.map_err(|_| "the thread that asks for metrics panicked".to_owned())?;
    let used = threads()?.into_iter().zip(before).map(|(after, before)| {
        let grown = after.iter().zip(before).map(|(after, before)| after - before);
        grown.collect::<Vec<f64>>()
    });
    for (key, used) in ["cpu_share_caller", "cpu_share_callee"].into_iter().zip(used) {
        turn.values.insert(key, busiest(&used)?);
    }
    for (key, counted) in ["connections_share_caller", "connections_share_callee"].into_iter().zip(counted) {
        turn.values.insert(key, busiest(&counted?)?);
    }
    turn.values.insert("requests_per_second", load.requests_per_second);
    stage.check()?;
    Ok(turn)
}

/// Open connections by worker, of the app and of the mesh.
fn connections(host: &Host) -> Result<Vec<f64>, String> {
    let page = metrics(host)?;
    let lines = page.lines().filter(|line| line.starts_with("isthmus_worker_connections_active{"));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect())
}

fn busiest(workers: &[f64]) -> Result<f64, String> {
    let (sum, most) = (workers.iter().sum::<f64>(), workers.iter().copied().fold(0.0, f64::max));
    match workers.len() == WORKERS && sum > 0.0 {
        true => Ok(most / sum),
        false => Err(format!("{} workers are told of, with {sum} in all", workers.len())),
    }
}

/// Seconds of processor time that each worker's thread has used.
fn worker_ticks(process: &Process) -> Result<Vec<f64>, String> {
    let tasks = format!("/proc/{}/task", process.id());
    let entries = fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))?;
    let mut workers = Vec::new();
    for entry in entries.flatten() {
        // A thread that has ended meanwhile is no worker.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, fields)) = stat.rsplit_once(')') else { continue };
        let Some((_, name)) = name.split_once('(') else { continue };
        if name.starts_with("worker-") {
            let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
            workers.push((name.to_owned(), ticks.sum::<f64>() / clock_ticks_per_second() as f64));
        }
    }
    workers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(workers.into_iter().map(|(_, seconds)| seconds).collect())
}
