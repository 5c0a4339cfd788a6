//! Idle connections: each with one exchange behind it, and then held.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_world::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http;
use crate::app::bytes::ECHO;
use crate::stage::Traffic;

/// For one exchange.
const PATIENCE: Duration = Duration::from_secs(20);
/// That are being opened at a time.
const OPENERS: usize = 64;

/// Opens `count` more connections.
pub(crate) fn hold(host: &Host, target: SocketAddr, traffic: Traffic, count: usize) -> Result<Vec<TcpStream>, String> {
    let held = host.block_on(async move {
        let mut openers = JoinSet::new();
        for opener in 0..OPENERS {
            let share = count / OPENERS + usize::from(opener < count % OPENERS);
            openers.spawn(async move {
                let mut held = Vec::with_capacity(share);
                for _ in 0..share {
                    held.push(timeout(PATIENCE, open(target, traffic)).await??);
                }
                Ok::<_, io::Error>(held)
            });
        }
        let mut all = Vec::with_capacity(count);
        while let Some(opener) = openers.join_next().await {
            all.extend(opener??);
        }
        Ok::<_, io::Error>(all)
    });
    held.map_err(|error| format!("holding {count} connections to {target}: {error}"))
}

async fn open(target: SocketAddr, traffic: Traffic) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 1024];
    if traffic == Traffic::Bytes {
        stream.write_all(&[ECHO; 64]).await?;
        stream.read_exact(&mut answer[..64]).await?;
        return Ok(stream);
    }
    stream.write_all(&http::get(target)).await?;
    let mut length = 0;
    while !http::is_whole(&answer[..length])? {
        match stream.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    Ok(stream)
}
