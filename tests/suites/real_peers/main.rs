//! Programs that know nothing of the mesh, in front of it and behind it: nginx, HAProxy, curl, nghttp2's tools,
//! PostgreSQL, Redis, MariaDB, OpenSSH, Python's gRPC and WebSockets. Each case asserts what the caller's program got,
//! what the callee's program saw, and that it came through the mesh.
//!
//! Two meshes are shared by all cases, because cases change nothing but what is theirs: each has its own ports.

mod aside;
mod curl;
mod forward_proxy;
mod grpc;
mod http1;
mod http2;
mod http_bodies;
mod postgres;
mod redis;
mod server_first;
mod shop;
mod ssh;
mod tds;
mod tls;
mod websocket;

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use isthmus_world::{find, privilege};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::shop::Shop;

/// What the mesh cannot do yet, by case, and why. Such a case must fail, so that this list can only become shorter:
/// whoever makes one pass takes it out.
const NOT_YET: &[(&str, &str)] = &[];

/// A name that says what is proved, the programs it takes, and the proof.
pub(crate) type Case = (&'static str, &'static [&'static str], fn(&Shop) -> Result<(), String>);

/// Cases of one stage run one after the other on one mesh; the stages run side by side.
const STAGES: [&[&[Case]]; 2] = [
    &[http1::CASES, http_bodies::CASES, http2::CASES, tls::CASES, forward_proxy::CASES],
    &[
        aside::CASES,
        grpc::CASES,
        websocket::CASES,
        postgres::CASES,
        redis::CASES,
        server_first::CASES,
        ssh::CASES,
        tds::CASES,
    ],
];

static SHOPS: [Mutex<Option<Shop>>; STAGES.len()] = [const { Mutex::new(None) }; STAGES.len()];
/// The cases of [`NOT_YET`] that were run.
static MISSING: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    isthmus_world::child_entry();
    let arguments = Arguments::from_args();
    if let Err(why) = privilege::enter() {
        eprintln!("SKIPPED: real_peers: {why}");
        // Where CI promised that nothing is skipped, a skipped suite is a failure.
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let conclusion = libtest_mimic::run(&arguments, trials());
    // Statics are never dropped, and servers want to be ended.
    SHOPS.iter().for_each(|shop| drop(lock(shop).take()));
    let missing = lock(&MISSING);
    if !missing.is_empty() {
        eprintln!("!!! NOT YET: {} cases that the mesh does not pass:\n{}\n", missing.len(), missing.join("\n"));
    }
    conclusion.exit_code()
}

/// Alternating between the stages, so that two threads seldom want the same one.
fn trials() -> Vec<Trial> {
    let mut stages: Vec<_> = STAGES.iter().map(|stage| stage.iter().copied().flatten()).collect();
    let mut trials = Vec::new();
    loop {
        let before = trials.len();
        for (place, cases) in stages.iter_mut().enumerate() {
            trials.extend(cases.next().map(|case| trial(place, case)).unwrap_or_default());
        }
        if trials.len() == before {
            return trials;
        }
    }
}

/// Nothing in the list where a program is missing, which was said loudly.
fn trial(stage: usize, (name, programs, prove): &'static Case) -> Option<Trial> {
    let (python, programs): (Vec<&str>, Vec<&str>) = programs.iter().partition(|name| name.starts_with("python:"));
    let packages: Vec<&str> = python.iter().filter_map(|name| name.strip_prefix("python:")).collect();
    let installed = find::or_skip(&programs, name).is_some()
        && (packages.is_empty() || isthmus_world::apps::python_or_skip(&packages, name));
    let not_yet = NOT_YET.iter().find(|(case, _)| case == name).map(|(_, why)| *why);
    installed.then(|| Trial::test(*name, move || run(stage, name, not_yet, *prove).map_err(Failed::from)))
}

fn run(stage: usize, name: &str, not_yet: Option<&str>, prove: fn(&Shop) -> Result<(), String>) -> Result<(), String> {
    let mut shop = lock(&SHOPS[stage]);
    if shop.is_none() {
        *shop = Some(Shop::start()?);
    }
    let shop = shop.as_ref().ok_or("no mesh")?;
    match (prove(shop), not_yet) {
        (proved, None) => proved.map_err(|why| format!("{why}\n{}", shop.logs())),
        (Ok(()), Some(_)) => Err("this case is on the list NOT_YET and passes: take it out".to_owned()),
        (Err(seen), Some(why)) => {
            let seen = seen.lines().next().unwrap_or_default();
            lock(&MISSING).push(format!("  {name}: {why}\n    seen: {seen}"));
            Ok(())
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A promise that is not kept, in words.
pub(crate) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
