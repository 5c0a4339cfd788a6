//! `isthmus demo`: the mission's network on one machine, and one line for each thing that the mesh promises.
//!
//! Two processes: a guard, which only waits and cleans up, and the one that does the work inside its own namespaces. So
//! nothing is left behind, whatever ends the work: its end, Ctrl-C, a failure, or SIGKILL.

mod guard;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use isthmus_world::lines::{LINES, Line};
use isthmus_world::mesh::{Mesh, Options, resources};
use isthmus_world::privilege::{self, Privilege};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;

use self::report::Report;

/// See the whole mesh on this machine: two sites, a link, a control plane, three sidecars, real traffic.
///
/// Needs Linux and no network. Runs as root or as an ordinary user (then inside a user namespace of its own). Everything
/// it makes is gone when it ends.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus demo                   build it, show every line, clean up\n  \
    isthmus demo --keep            leave it up, with commands to try by hand, until Ctrl-C\n  \
    isthmus demo --json | jq '.steps[] | {id, ok}'\n  \
    isthmus demo --with-postgres   fail if PostgreSQL is not installed\n\n\
    EXIT STATUS: 0 every line holds, 1 one does not or the network cannot be built, 130 Ctrl-C")]
pub(crate) struct Args {
    /// Leave everything running until Ctrl-C and print commands to try by hand.
    #[arg(long, conflicts_with = "json")]
    keep: bool,
    /// The same facts as JSON on stdout.
    #[arg(long)]
    json: bool,
    /// Show psql → PostgreSQL too, and fail where it is not installed. Without it: where it is found.
    #[arg(long)]
    with_postgres: bool,
    /// Use the built-in client and server though curl, nginx and openssl are installed.
    #[arg(long)]
    built_in: bool,
    /// There and back over the emulated link, half of it each way.
    #[arg(long, default_value = "4ms", value_parser = crate::span::parse, value_name = "DURATION")]
    round_trip: Duration,
    /// Show only these lines, by number.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    only: Vec<usize>,
    /// Where the guard keeps this run's files.
    #[arg(long, hide = true, value_name = "DIR")]
    files: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    match &args.files {
        None => guard::run(),
        Some(files) => work(&args, files),
    }
}

fn work(args: &Args, files: &Path) -> ExitCode {
    // The guard may be killed without a chance to tell us.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // Before any thread: a process with threads cannot enter a user namespace.
    let privilege = match privilege::enter() {
        Ok(privilege) => privilege,
        Err(why) => {
            eprintln!("error: this machine does not let the demo build its network\n{why}");
            return ExitCode::FAILURE;
        }
    };
    if tempfile::env::override_temp_dir(files).is_err() {
        eprintln!("error: the directory for temporary files was chosen before the demo could");
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(args.json);
    report.title(&format!("isthmus demo · azure-eastus and dc1, {:?} and 1 Gbit/s apart", args.round_trip));
    match show(args, &mut report) {
        Ok(mesh) => {
            let about = about(&mesh, privilege);
            report.say(&differs(privilege));
            let ok = report.finish(about);
            if args.keep {
                keep(&mesh, files);
            }
            if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            report.say(&format!("error: the mesh could not be built: {why}"));
            report.finish(json!({ "error": why }));
            ExitCode::FAILURE
        }
    }
}

fn show(args: &Args, report: &mut Report) -> Result<Mesh, String> {
    let postgres = ["initdb", "postgres", "psql"].iter().all(|p| isthmus_world::find::program(p).is_some());
    if args.with_postgres && !postgres {
        return Err(
            "--with-postgres: initdb, postgres or psql is not installed (Debian: apt install postgresql)".to_owned()
        );
    }
    let wanted = |line: &&Line| args.only.is_empty() || args.only.contains(&line.number);
    let binary = std::env::current_exe().map_err(|e| format!("the path of this program: {e}"))?;
    let options = Options { binary, built_in_only: args.built_in, timed: true, round_trip: args.round_trip };
    let mut mesh = Mesh::start(&options, &mut |text| report.progress(text))?;
    for line in LINES.iter().filter(wanted) {
        if line.id == "postgres" && !postgres {
            report.say("- 10 psql → PostgreSQL: not installed (Debian: apt install postgresql)");
            continue;
        }
        report.progress(line.title);
        let started = Instant::now();
        let outcome = (line.show)(&mut mesh);
        let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.step(line.number, line.id, line.title, took, outcome);
    }
    Ok(mesh)
}

fn about(mesh: &Mesh, privilege: Privilege) -> serde_json::Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "privilege": match privilege { Privilege::Root => "root", Privilege::UserNamespace => "user-namespace" },
        "programs": { "client": mesh.caller(), "server": mesh.orders_app(), "tls": mesh.tls_client() },
    })
}

/// What a deployment does otherwise than this run.
fn differs(privilege: Privilege) -> String {
    match privilege {
        Privilege::Root => "\nunlike in production: sidecars are exempt from capture by socket mark, not by uid 1337",
        Privilege::UserNamespace => {
            "\nunlike in production: all of it runs in a user namespace, so sidecars are exempt from capture by socket \
             mark,\nnot by uid 1337, and PostgreSQL runs in a nested user namespace"
        }
    }
    .to_owned()
}

/// Until Ctrl-C: the guard ends us then.
fn keep(mesh: &Mesh, files: &Path) {
    println!("\nit is all up; to try by hand, as root or as yourself in another terminal:");
    for host in mesh.world().hosts() {
        println!("  {:<9} {} -- sh", host.name(), host.enter_command());
    }
    println!("in web:      curl -i http://orders.shop.svc.cluster.local/");
    println!("in batch:    curl -i http://orders.shop.svc.cluster.local/");
    println!("in stranger: curl -i http://10.20.1.10:8080/");
    let program = std::env::current_exe().map_or_else(|_| "isthmus".to_owned(), |path| path.display().to_string());
    println!("in control:  export ISTHMUS_OPERATOR={}", mesh.control().operator_file().display());
    println!("             {program} get proxies; {program} get all");
    match mesh.apply(resources::MESH) {
        Ok(_) => println!("             {program} trace   (after a request; the control plane keeps the last ones)"),
        Err(why) => println!("             (traces stay with the demo's own collector: {why})"),
    }
    println!("logs and state are in {}; Ctrl-C ends it", files.display());
    loop {
        std::thread::park();
    }
}
