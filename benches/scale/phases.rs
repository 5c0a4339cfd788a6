//! What is measured, in the order in which it happens.

use std::time::{Duration, Instant};

use crate::Arguments;
use crate::control::Control;
use crate::fleet::Fleet;
use crate::mesh;
use crate::operator::Operator;
use crate::report::{Changes, Report};
use crate::tls;

/// After a load: timers run out, and freed memory goes back, which the allocator does after 10 s.
const SETTLE: Duration = Duration::from_secs(13);

const BETWEEN: Duration = Duration::from_millis(40);

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, String> {
    let mut report = Report::default();
    let mut control = Control::start()?;
    tell("starting");
    control.ready().await?;
    let mut operator = Operator::connect(&control.operator_file()).await?;
    report.empty_bytes = control.resident()?;

    tell("applying all resources as one change");
    let began = Instant::now();
    operator.apply_all(mesh::parts(arguments)).await?;
    report.apply = began.elapsed();
    tokio::time::sleep(SETTLE).await;
    report.loaded_bytes = control.resident()?;
    report.store_bytes = control.store_bytes();

    tell("connecting the proxies");
    let token = operator.token(mesh::workload_name(0)).await?;
    let mut fleet = Fleet::new(control.proxies, tls::enroll(&token, control.proxies).await?, uses(arguments));
    (report.first_connect, report.first_sync_bytes) = fleet.connect().await?;
    tokio::time::sleep(SETTLE).await;
    report.connected_bytes = control.resident()?;

    tell("changes that nobody uses, that a few use, that all use");
    report.unused = changes(arguments, Sort::Unused, &mut operator, &mut fleet, &control).await?;
    report.few = changes(arguments, Sort::Few, &mut operator, &mut fleet, &control).await?;
    report.all = changes(arguments, Sort::All, &mut operator, &mut fleet, &control).await?;
    tokio::time::sleep(SETTLE).await;
    report.after_changes_bytes = control.resident()?;

    tell("all proxies reconnect at once");
    let cpu = control.cpu()?;
    fleet.cut().await;
    (report.storm, _) = fleet.connect().await?;
    report.storm_cpu = control.cpu()? - cpu;

    tell("a crash");
    fleet.cut().await;
    control.crash_and_start()?;
    report.cold_start = control.ready().await?;
    let (back, _) = fleet.connect().await?;
    report.cold_start_all = report.cold_start + back;
    report.restarted_bytes = control.resident()?;
    Ok(report)
}

fn tell(phase: &str) {
    eprintln!("{phase} …");
}

/// Each proxy uses the last service, and others spread evenly.
fn uses(arguments: &Arguments) -> Vec<Vec<usize>> {
    let others = arguments.services - 1;
    let of = |proxy: usize| {
        let own = (0..arguments.uses.min(others)).map(move |k| (proxy * arguments.uses + k) % others.max(1));
        own.chain([others]).collect()
    };
    (0..arguments.proxies).map(of).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Unused,
    Few,
    All,
}

/// One endpoint at a time: from when the operator sends it to when each proxy that uses it has it.
async fn changes(
    arguments: &Arguments,
    sort: Sort,
    operator: &mut Operator,
    fleet: &mut Fleet,
    control: &Control,
) -> Result<Changes, String> {
    let uses = uses(arguments);
    let cpu = control.cpu()?;
    let mut result = Changes::default();
    for round in 0..arguments.changes {
        // Endpoints without a proxy: the last ones of their services.
        let service = if sort == Sort::All { arguments.services - 1 } else { (round * 7) % (arguments.services - 1) };
        let endpoint = last_endpoint(arguments, service);
        let (yaml, users) = match sort {
            Sort::Unused => (mesh::unused(round), 0),
            Sort::Few | Sort::All => {
                let users = uses.iter().filter(|used| used.contains(&service)).count();
                (mesh::changed(endpoint, service, round), users)
            }
        };
        // Longer than the pause after a push: each change is measured alone, not as part of a burst.
        tokio::time::sleep(BETWEEN).await;
        fleet.forget();
        let sent = Instant::now();
        let revision = operator.apply(yaml).await?;
        result.acknowledged.push(sent.elapsed());
        for arrived in fleet.arrivals(revision, users).await? {
            result.reached.push(arrived.at.saturating_duration_since(sent));
            result.bytes += arrived.bytes;
        }
    }
    result.cpu = control.cpu()? - cpu;
    Ok(result)
}

fn last_endpoint(arguments: &Arguments, service: usize) -> usize {
    let rounds = (arguments.endpoints - 1 - service) / arguments.services;
    service + rounds * arguments.services
}
