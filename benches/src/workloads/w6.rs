//! W6: the pair with an emulated link between: 10 ms there and back, 1 Gbit/s. How many round trips a new connection of
//! the app costs, cold (the first one) and warm, and how much one and eight streams carry without and with loss.

use std::time::Duration;

use isthmus_world::{Host, LinkShape};

use super::{LOAD_AVERAGE, turn_of};
use crate::load::bulk::{Way, bulk};
use crate::load::rate::connection;
use crate::peers::{Peer, Running, Setting};
use crate::rounds::{Bench, Figure, Turn, Workload};
use crate::stage::{Stage, Traffic};

const ROUND_TRIP: Duration = Duration::from_millis(10);
/// New connections whose median is the warm one.
const WARM: usize = 41;
const LOSS: f64 = 0.001;
/// For windows to open: at 10 ms a slow start takes ten round trips.
const OPEN: Duration = Duration::from_millis(700);
/// For one connection.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const W6: Workload = Workload {
    name: "w6",
    what: "pair over mTLS and a link of 10 ms and 1 Gbit/s: connect to echoed byte on a new TCP connection; bulk down",
    figures: &[
        Figure::compared("warm_round_trips", "warm: round trips", 2),
        Figure::compared("cold_round_trips", "cold", 2),
        Figure::compared("gbit_per_second_1", "Gbit/s 1 stream", 3),
        Figure::compared("gbit_per_second_8", "8", 3),
        Figure::compared("gbit_per_second_1_loss", "0.1 % loss: 1 stream", 3),
        Figure::compared("gbit_per_second_8_loss", "8", 3),
        LOAD_AVERAGE,
    ],
    contenders: &[Peer::Direct, Peer::Isthmus, Peer::Haproxy, Peer::Envoy, Peer::Ztunnel, Peer::Linkerd2Proxy],
    rounds_at_most: u32::MAX,
    turn: |bench, peer| {
        let shape = LinkShape { round_trip: ROUND_TRIP, ..LinkShape::default() };
        let stage = Stage::far(&bench.programs, Traffic::Bytes, shape)?;
        let setting = Setting::pair(Traffic::Bytes);
        let running = peer.start(&bench.programs, &bench.certificates, &stage, setting)?;
        carry(bench, stage, &running).map_err(|error| running.explain(error))
    },
};

fn carry(bench: &Bench, mut stage: Stage, running: &Running) -> Result<Turn, String> {
    let mut turn = turn_of(running);
    let client = &stage.hosts.client;
    turn.values.insert("cold_round_trips", round_trips(client, running)?);
    let mut warm: Vec<f64> = (0..WARM).map(|_| round_trips(client, running)).collect::<Result<_, _>>()?;
    warm.sort_by(f64::total_cmp);
    turn.values.insert("warm_round_trips", warm[WARM / 2]);
    for (loss, one, eight) in
        [(0.0, "gbit_per_second_1", "gbit_per_second_8"), (LOSS, "gbit_per_second_1_loss", "gbit_per_second_8_loss")]
    {
        stage.link()?.set_loss(loss);
        for (streams, key) in [(1, one), (8, eight)] {
            // Down: counted where it has arrived, not where a buffer took it.
            let bulk = bulk(client, running.target, (streams, Way::Down), OPEN, bench.length / 2)?;
            if bulk.bytes == 0.0 {
                return Err(format!("nothing went through {}", running.target));
            }
            turn.values.insert(key, bulk.gigabits_per_second());
        }
    }
    let dropped = stage.link()?.stats();
    let missed = dropped.left_to_right.dropped_host + dropped.right_to_left.dropped_host;
    turn.facts.insert("frames the emulator itself missed", missed.to_string());
    stage.check()?;
    Ok(turn)
}

fn round_trips(client: &Host, running: &Running) -> Result<f64, String> {
    let target = running.target;
    let took = client.block_on(async move { tokio::time::timeout(PATIENCE, connection(target)).await });
    let took = took.map_err(|_| "a new connection took too long".to_owned())?;
    let took = took.map_err(|error| format!("a new connection to {target}: {error}"))?;
    Ok(took.as_secs_f64() / ROUND_TRIP.as_secs_f64())
}
