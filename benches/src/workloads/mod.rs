//! W1 to W7 of the project's performance document, one file each.

mod balance;
mod telemetry;
mod w1;
mod w2;
mod w2g;
mod w3a;
mod w3b;
mod w4;
mod w5;
mod w6;
mod w6cut;
mod w7;

use std::time::Duration;

use isthmus_world::Process;

use crate::machine::load_average;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::Stage;
use crate::usage::{CpuSeconds, total, user_share};

/// All there are, in the order of the tables.
pub(crate) static ALL: &[&Workload] = &[
    &w1::W1,
    &w2::W2,
    &w2g::W2G,
    &w3a::W3A,
    &w3b::W3B,
    &w4::W4,
    &w4::W4_L4,
    &w5::W5,
    &w6::W6,
    &w6cut::W6_CUT,
    &w7::W7,
    &w7::W7_MAX,
    &balance::BALANCE,
    &telemetry::TELEMETRY,
];

/// Connections, pools, allocators and snapshots are in place after this.
const WARM_UP: Duration = Duration::from_secs(1);

const LOAD_AVERAGE: Figure = Figure::plain("load_average", "load average", 2);
const USER_SHARE: Figure = Figure::plain("user_share", "user share", 2);

/// A fresh stage with two hosts side by side, and the contender on it.
fn near(bench: &Bench, peer: Peer, setting: Setting) -> Result<(Stage, Running), String> {
    let stage = Stage::near(&bench.programs, setting.traffic)?;
    let running = peer.start(&bench.programs, &bench.certificates, &stage, setting)?;
    Ok((stage, running))
}

/// A turn that has its circumstances only.
fn turn_of(running: &Running) -> Turn {
    let mut turn = Turn::default();
    turn.values.insert("load_average", load_average());
    running.add_facts(&mut turn);
    turn
}

/// Microseconds of processor time for each of `done`, of all proxies and of each.
fn add_microseconds(turn: &mut Turn, used: &[CpuSeconds], done: f64, [all, caller, callee]: [&'static str; 3]) {
    let Some(share) = user_share(used) else { return };
    turn.values.insert(all, total(used) * 1e6 / done);
    turn.values.insert("user_share", share);
    if let [by_caller, by_callee] = used {
        turn.values.insert(caller, by_caller.total() * 1e6 / done);
        turn.values.insert(callee, by_callee.total() * 1e6 / done);
    }
}

/// Resident memory of each proxy, in MiB.
fn resident(proxies: &[Process]) -> Result<Vec<f64>, String> {
    let of = |process: &Process| Ok(process.resident_bytes().map_err(|error| error.to_string())? as f64 / MIB);
    proxies.iter().map(of).collect()
}

const MIB: f64 = (1 << 20) as f64;

/// Resident memory of each proxy as figures.
fn add_resident(turn: &mut Turn, proxies: &[Process], keys: [&'static str; 2]) -> Result<(), String> {
    turn.values.extend(keys.into_iter().zip(resident(proxies)?));
    Ok(())
}

/// Fails a turn of ours that was carried with tracing off.
fn add_spans(turn: &mut Turn, running: &Running) -> Result<(), String> {
    if let Some(beside) = &running.beside {
        let (spans, bytes) = beside.spans()?;
        turn.facts.extend([("spans", spans.to_string()), ("span bytes", bytes.to_string())]);
    }
    Ok(())
}
