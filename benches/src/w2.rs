//! W2: a pair of sidecars with mutual TLS between them; HTTP/1.1 keep-alive GET of 128 bytes on 64 connections.

use std::time::Duration;

use crate::load::{Load, wrk};
use crate::machine::load_average;
use crate::peers::{Peer, Running, Sides};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::Stage;
use crate::usage::CpuSeconds;

const CONNECTIONS: u32 = 64;
/// Connections, pools, allocators and snapshots are in place after this.
const WARM_UP: Duration = Duration::from_secs(1);

pub(crate) const W2: Workload = Workload {
    name: "w2",
    what: "pair over mTLS, HTTP/1.1 keep-alive GET of 128 bytes, wrk with 64 connections, one worker thread per proxy",
    figures: &[
        Figure { key: "cpu_us_per_req", heading: "CPU µs/request (pair)", digits: 2 },
        Figure { key: "cpu_us_per_req_caller", heading: "caller's", digits: 2 },
        Figure { key: "cpu_us_per_req_callee", heading: "callee's", digits: 2 },
        Figure { key: "user_share", heading: "user share", digits: 2 },
        Figure { key: "requests_per_second", heading: "requests/s", digits: 0 },
        Figure { key: "p50_us", heading: "p50 µs", digits: 0 },
        Figure { key: "p99_us", heading: "p99 µs", digits: 0 },
        Figure { key: "rss_mib_caller", heading: "RSS MiB caller's", digits: 1 },
        Figure { key: "rss_mib_callee", heading: "RSS MiB callee's", digits: 1 },
        Figure { key: "load_average", heading: "load average", digits: 2 },
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::HaproxyH2, Peer::HaproxyH1, Peer::EnvoyH2],
    turn,
};

fn turn(bench: &Bench, peer: Peer) -> Result<Turn, String> {
    let mut stage = Stage::set(&bench.programs.nginx)?;
    let running = peer.start(&bench.programs, &bench.certificates, &stage)?;
    let load = |length| wrk(&bench.programs.wrk, &stage.hosts.client, &running.url, CONNECTIONS, length);
    load(WARM_UP).map_err(|error| format!("{error}\n{}", last_lines(&running)))?;
    let before = used(&running)?;
    let measured = load(bench.length).map_err(|error| format!("{error}\n{}", last_lines(&running)))?;
    let after = used(&running)?;
    stage.check()?;
    let mut turn = Turn::default();
    turn.values.insert("load_average", load_average());
    carried(&mut turn, measured);
    if let (Some(sides), Some(before), Some(after)) = (&running.sides, before, after) {
        let cost = [after[0] - before[0], after[1] - before[1]];
        cpu(&mut turn, cost, measured.requests);
        memory(&mut turn, sides)?;
    }
    turn.facts.extend(running.also_did()?);
    if let Some(proof) = &running.proof {
        turn.facts.insert("without_certificate", proof.stranger.clone());
    }
    if let Some(handshake) = running.proof.as_ref().and_then(|proof| proof.handshake.as_ref()) {
        turn.facts.insert("probe_cipher", handshake.cipher.clone());
        turn.facts.insert("probe_group", handshake.group.clone());
    }
    Ok(turn)
}

fn used(running: &Running) -> Result<Option<[CpuSeconds; 2]>, String> {
    let sides = running.sides.as_ref();
    sides.map(|sides| Ok([CpuSeconds::of(&sides.caller)?, CpuSeconds::of(&sides.callee)?])).transpose()
}

fn carried(turn: &mut Turn, load: Load) {
    turn.values.insert("requests", load.requests);
    turn.values.insert("requests_per_second", load.requests_per_second);
    turn.values.insert("p50_us", load.p50_us);
    turn.values.insert("p99_us", load.p99_us);
}

fn cpu(turn: &mut Turn, [caller, callee]: [CpuSeconds; 2], requests: f64) {
    let total = caller.total() + callee.total();
    turn.values.insert("cpu_us_per_req", total * 1e6 / requests);
    turn.values.insert("cpu_us_per_req_caller", caller.total() * 1e6 / requests);
    turn.values.insert("cpu_us_per_req_callee", callee.total() * 1e6 / requests);
    if total > 0.0 {
        turn.values.insert("user_share", (caller.user + callee.user) / total);
    }
}

fn memory(turn: &mut Turn, sides: &Sides) -> Result<(), String> {
    for (key, process) in [("rss_mib_caller", &sides.caller), ("rss_mib_callee", &sides.callee)] {
        let bytes = process.resident_bytes().map_err(|error| error.to_string())?;
        turn.values.insert(key, bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
}

fn last_lines(running: &Running) -> String {
    let Some(sides) = &running.sides else {
        return String::new();
    };
    let text = |process: &isthmus_world::Process| format!("{} said last:\n{}", process.label(), process.last_lines());
    format!("{}\n{}", text(&sides.caller), text(&sides.callee))
}
