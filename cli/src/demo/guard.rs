//! The guard: starts the demo's other half, waits, and removes its files whatever ended it. The processes of the demo
//! die with that half (death signal), and its namespaces with the last process in them.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long the other half may take to end in order, before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// A dying process may still write a file while its directory is removed.
const REMOVE_TRIES: usize = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(watch())) {
        Ok(Ok(code)) => code,
        Ok(Err(why)) | Err(why) => {
            eprintln!("error: the demo could not be started: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn watch() -> std::io::Result<ExitCode> {
    let files = TempDir::with_prefix("isthmus-demo-")?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut work = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--files")
        .arg(files.path())
        .kill_on_drop(true)
        .spawn()?;
    let code = tokio::select! {
        status = work.wait() => code_of(status?),
        _ = interrupted.recv() => end(&mut work, 130).await,
        _ = terminated.recv() => end(&mut work, 143).await,
        _ = hung_up.recv() => end(&mut work, 129).await,
    };
    remove(files).await;
    Ok(code)
}

/// At a terminal Ctrl-C has reached the other half too; from elsewhere it has not.
async fn end(work: &mut Child, code: u8) -> ExitCode {
    if timeout(Duration::from_millis(200), work.wait()).await.is_err() {
        // Gone in between is as good; SIGKILL is enough, since nothing of it survives its namespaces.
        let _ = work.start_kill();
        let _ = timeout(GRACE, work.wait()).await;
    }
    eprintln!("\ninterrupted; everything the demo made is gone");
    ExitCode::from(code)
}

fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        (None, signal) => {
            eprintln!("error: the demo was ended by signal {}", signal.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

async fn remove(files: TempDir) {
    let path = files.keep();
    for _ in 0..REMOVE_TRIES {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => return,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => tokio::time::sleep(REMOVE_PAUSE).await,
        }
    }
    eprintln!("warning: {} could not be removed", path.display());
}
