//! The two-site world, end to end: the binary that users get, in network namespaces, with ordinary programs as apps.
//! Each test builds a mesh of its own, so that none depends on another.

mod clocks;
mod decisions;
mod departures;
mod disks;
mod egress;
mod external;
mod federation;
mod future;
mod hostile;
mod joining;
mod leases;
mod live;
mod nat;
mod odd_callers;
mod outages;
mod outside_apps;
mod plain_callers;
mod readiness;
mod secrets;
mod spans;
mod transport;
mod transport_tls;
mod trust;
mod watched;
mod ways;

use std::process::ExitCode;
use std::time::Duration;

use isthmus_world::lines::{LINES, Line};
use isthmus_world::mesh::{Mesh, Options};
use isthmus_world::{find, privilege};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    isthmus_world::child_entry();
    let arguments = Arguments::from_args();
    if let Err(why) = privilege::enter() {
        eprintln!("SKIPPED: two_sites: {why}");
        // Where CI promised that nothing is skipped, a skipped suite is a failure.
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut trials: Vec<Trial> = LINES.iter().filter(|line| can_show(line)).map(line_trial).collect();
    trials.extend(tests(egress::TESTS, mesh).filter(|_| egress::can_run()));
    trials.extend(tests(clocks::TESTS, mesh));
    trials.extend(tests(decisions::TESTS, mesh));
    trials.extend(tests(departures::TESTS, mesh).filter(|_| egress::can_run()));
    trials.extend(tests(disks::TESTS, mesh));
    trials.extend(tests(external::TESTS, mesh).filter(|_| egress::can_run()));
    if find::or_skip(&["curl"], "messages from the future").is_some() {
        let name = "messages_from_the_future_are_refused_and_nacked_by_the_real_proxy";
        trials.push(Trial::test(name, || future::refused_and_nacked().map_err(Failed::from)));
    }
    trials.extend(tests(federation::TESTS, echoing_mesh));
    trials.extend(tests(hostile::TESTS, mesh));
    trials.extend(tests(joining::TESTS, mesh));
    trials.extend(tests(leases::TESTS, mesh));
    trials.extend(tests(live::TESTS, mesh).filter(|_| live::can_run()));
    trials.extend(tests(nat::TESTS, mesh).filter(|_| nat::can_run()));
    trials.extend(tests(odd_callers::TESTS, echoing_mesh));
    trials.extend(tests(outages::TESTS, mesh));
    let outside = tests(outside_apps::TESTS, mesh);
    trials.extend(outside.filter(|_| egress::can_run() && outside_apps::can_run()));
    trials.extend(tests(plain_callers::TESTS, mesh).filter(|_| transport::can_run()));
    trials.extend(tests(readiness::TESTS, mesh));
    trials.extend(tests(secrets::TESTS, mesh));
    trials.extend(tests(spans::TESTS, mesh));
    trials.extend(tests(transport::TESTS, mesh).filter(|_| transport::can_run()));
    trials.extend(tests(transport_tls::TESTS, mesh).filter(|_| transport::can_run()));
    trials.extend(tests(trust::TESTS, mesh));
    trials.extend(tests(watched::OWN, mesh));
    trials.extend(tests(watched::TESTS, mesh).filter(|_| watched::can_run()));
    trials.extend(tests(ways::TESTS, echoing_mesh).filter(|_| ways::can_run()));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A name that says what is proved, and the proof on a mesh that is up.
type Test = (&'static str, fn(&mut Mesh) -> Result<(), String>);

fn tests(tests: &'static [Test], start: fn() -> Result<Mesh, String>) -> impl Iterator<Item = Trial> {
    tests.iter().map(move |(name, prove)| Trial::test(*name, move || prove(&mut start()?).map_err(Failed::from)))
}

/// One test per numbered line of the demo.
fn line_trial(line: &'static Line) -> Trial {
    let name = format!("line_{}_{}", line.number, line.id.replace('-', "_"));
    Trial::test(name, move || (line.show)(&mut mesh()?).map(|_| ()).map_err(Failed::from))
}

fn can_show(line: &Line) -> bool {
    line.id != "postgres" || find::or_skip(&["initdb", "postgres", "psql"], "psql over the mesh").is_some()
}

fn mesh() -> Result<Mesh, String> {
    mesh_with(false)
}

/// With the world's own app on `orders`, which echoes every header that it gets.
fn echoing_mesh() -> Result<Mesh, String> {
    mesh_with(true)
}

fn mesh_with(built_in_only: bool) -> Result<Mesh, String> {
    let binary = env!("CARGO_BIN_EXE_isthmus").into();
    // Not timed: the binary is not optimised, and other tests run beside it. The demo does it.
    let options = Options { binary, built_in_only, timed: false, round_trip: Duration::from_millis(4) };
    Mesh::start(&options, &mut |_| ())
}

/// A promise that is not kept, in words.
fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
