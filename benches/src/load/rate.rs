//! New connections: connect, 64 bytes there and back, close; some at a time, each at once after the one before.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_world::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Percentiles;
use crate::app::bytes::ECHO;

/// One that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const MESSAGE: [u8; 64] = [ECHO; 64];

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) connections: f64,
    pub(crate) per_second: f64,
    pub(crate) times: Percentiles,
}

/// Runs on `host` for `length`. A single connection that fails is an error.
pub(crate) fn rate(host: &Host, target: SocketAddr, at_a_time: usize, length: Duration) -> Result<Rate, String> {
    host.block_on(async move {
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..at_a_time {
            callers.spawn(call(target, start + length));
        }
        let mut times = Vec::new();
        while let Some(caller) = callers.join_next().await {
            let caller = caller.map_err(|error| error.to_string())?;
            times.extend(caller.map_err(|error| format!("a connection to {target} failed: {error}"))?);
        }
        let (connections, seconds) = (times.len() as f64, start.elapsed().as_secs_f64());
        let times = Percentiles::of(times).ok_or("no connection was made")?;
        Ok(Rate { connections, per_second: connections / seconds, times })
    })
}

async fn call(target: SocketAddr, until: Instant) -> io::Result<Vec<f64>> {
    let mut times = Vec::new();
    while Instant::now() < until {
        times.push(timeout(PATIENCE, connection(target)).await??.as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// From before the connect to the echoed bytes.
pub(crate) async fn connection(target: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&MESSAGE).await?;
    let mut answer = [0; MESSAGE.len()];
    stream.read_exact(&mut answer).await?;
    match answer == MESSAGE {
        true => Ok(start.elapsed()),
        false => Err(io::Error::other("other bytes came back than went")),
    }
}
