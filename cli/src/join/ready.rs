//! Waiting until the proxy says that it serves: its readiness port answers 200 once it has its certificate and its first
//! configuration.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::failure::Failure;

const PORT: u16 = 15021;
const EVERY: Duration = Duration::from_millis(200);
const MAX_ANSWER: u64 = 16 * 1024;

/// How long it took.
pub(super) async fn wait(limit: Duration) -> Result<Duration, Failure> {
    wait_at(PORT, limit).await
}

async fn wait_at(port: u16, limit: Duration) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut last = "it has not answered".to_owned();
    let poll = async {
        loop {
            match timeout(EVERY * 5, ask(port)).await {
                Ok(Ok((true, _))) => return,
                Ok(Ok((false, said))) => last = format!("it says: {said}"),
                Ok(Err(e)) => last = format!("port {port}: {e}"),
                Err(_) => last = format!("port {port} accepts and does not answer"),
            }
            sleep(EVERY).await;
        }
    };
    match timeout_at(began + limit, poll).await {
        Ok(()) => Ok(began.elapsed()),
        Err(_) => Err(Failure::timed_out(
            format!("the proxy was started, but is not ready after {limit:?}: {last}"),
            "journalctl -u isthmus-proxy; it keeps trying. `isthmus leave` takes it away",
        )),
    }
}

async fn ask(port: u16) -> std::io::Result<(bool, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let ready = answer.split_whitespace().nth(1) == Some("200");
    let said = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    Ok((ready, said.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
#[path = "ready_test.rs"]
mod ready_test;
