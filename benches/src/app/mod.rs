//! The apps that are no program of others: this program again, in the callee's host. `bench-peers __app KIND PORT`.

pub(crate) mod bytes;
pub(crate) mod grpc;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use isthmus_world::Command;
use tokio::net::TcpListener;

/// The word in `argv[1]` by which this program knows that it is an app.
const MARK: &str = "__app";
const BACKLOG: u32 = 4096;

/// This program as an app.
pub(crate) fn command(kind: &str, port: u16) -> Command {
    Command::this_program().args([MARK, kind]).arg(port.to_string())
}

/// `None` in the ordinary case. Serves for ever otherwise.
pub(crate) fn entry() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    match serve(arguments) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{MARK}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn serve(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let mut word = || arguments.next().and_then(|word| word.into_string().ok()).unwrap_or_default();
    let (kind, port) = (word(), word());
    let port: u16 = port.parse().map_err(|_| io::Error::other(format!("{port:?} is no port")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([0, 0, 0, 0], port).into())?;
        let listener: TcpListener = socket.listen(BACKLOG)?;
        match kind.as_str() {
            "bytes" => bytes::serve(listener).await,
            "grpc" => grpc::serve(listener).await,
            _ => Err(io::Error::other(format!("{kind:?} is no app of ours"))),
        }
    })
}
