//! The proxy as a process of its own: arguments, limits, signals, exit code.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, geteuid, getrlimit, set_dumpable_behavior, setrlimit};
use socket2::{Domain, Socket, Type};
use tikv_jemalloc_ctl::{Access as _, AsName as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Mode};
use crate::redirect::Exemption;

use super::{Embedding, RunError, logging, run_embedded};

/// Arguments of `isthmus-proxy` and of `isthmus proxy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/isthmus/proxy.yaml")]
    pub config: PathBuf,
    /// Read and check the configuration, say what is wrong with it, and end
    #[arg(long)]
    pub check: bool,
}

/// Memory that nobody took again for so long is given back, little by little.
const IDLE_MEMORY_MS: isize = 1_000;

/// Configuration that cannot be used, as sysexits.h numbers it (EX_CONFIG); systemd's RestartPreventExitStatus knows it.
const BAD_CONFIG: u8 = 78;

/// Runs a proxy as this process, until a signal: SIGTERM and SIGINT drain, a second one ends at once. SIGTERM comes from
/// whoever will start it again, SIGINT from a hand, which wants its machine back.
pub fn run_blocking(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    let set_log_level = logging::start(&config.log);
    protect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let by_hand = CancellationToken::new();
        let signals = tokio::spawn(on_signals(shutdown.clone(), by_hand.clone()));
        let embedding = Embedding { set_log_level, by_hand, ..Embedding::default() };
        let outcome = run_embedded(config, shutdown, embedding).await;
        signals.abort();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// For the daemons: what closed connections held goes back to the system within seconds, though no allocation comes.
/// jemalloc's own default is ten. A thread of the allocator's does it, and therefore not from the start of a program: a
/// process with threads cannot enter a user namespace.
pub fn return_idle_memory() {
    // Without it they work as well, and are only larger.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    for decay in [&b"arenas.dirty_decay_ms\0"[..], b"arena.0.dirty_decay_ms\0"] {
        let _ = decay.name().write(IDLE_MEMORY_MS);
    }
}

/// No core file and no debugger of the same user may see the key. Files enough for the connections.
fn protect() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let unprotected =
        setrlimit(Resource::Core, none).is_err() || set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err();
    if unprotected {
        tracing::warn!("core dumps could not be turned off: a crash may write keys to disk");
    }
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit { current: files.maximum, maximum: files.maximum };
    if files.current != files.maximum && setrlimit(Resource::Nofile, all).is_err() {
        tracing::warn!(limit = files.current, "the limit of open files could not be raised to its maximum");
    }
}

async fn on_signals(shutdown: CancellationToken, by_hand: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return tracing::error!("signals cannot be caught; SIGTERM will end the proxy without a drain");
    };
    for _ in 0..2 {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => by_hand.cancel(),
        }
        if shutdown.is_cancelled() {
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        }
        shutdown.cancel();
    }
}

/// Makes sure that what capture leaves alone is this process, before anything is captured.
pub(super) fn check_exemption(config: &Config) -> Result<(), RunError> {
    if config.capture.mode == Mode::None {
        return Ok(());
    }
    match config.capture.exempt {
        Exemption::Uid(exempt) => {
            let own = geteuid().as_raw();
            if own != exempt {
                return Err(RunError::NotExempt { own, exempt });
            }
            warn_of_others(exempt);
            Ok(())
        }
        Exemption::Mark(mark) => {
            let set = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.set_mark(mark));
            set.map_err(|error| RunError::Mark { mark, error })
        }
    }
}

/// Whoever runs as the exempt user is not captured and not protected.
fn warn_of_others(uid: u32) {
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others: Vec<u32> = pids.filter(|pid| *pid != own && effective_uid(*pid) == Some(uid)).take(8).collect();
    if !others.is_empty() {
        tracing::warn!(
            uid,
            ?others,
            "other processes run as the proxy's user: their traffic bypasses the mesh; give the proxy a user of its own"
        );
    }
}

fn effective_uid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(1)?.parse().ok()
}
