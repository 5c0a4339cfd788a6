//! gRPC unary calls, closed loop: some streams on some connections, each stream at once after the one before. Every
//! answer is looked at to its trailers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use isthmus_world::Host;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Percentiles;
use crate::app::grpc::{PATH, framed};

/// For one call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of streams and of the connection: never the reason for a wait.
const WINDOW: u32 = 1 << 20;

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    pub(crate) calls: f64,
    pub(crate) per_second: f64,
    pub(crate) times: Percentiles,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Runs on `host` for `length`. A single failed call is an error.
pub(crate) fn calls(
    host: &Host,
    target: SocketAddr,
    (connections, streams_each): (usize, usize),
    length: Duration,
) -> Result<Calls, String> {
    let times = host.block_on(async move {
        let mut drivers = JoinSet::new();
        let mut callers = JoinSet::new();
        let start = Instant::now();
        for _ in 0..connections {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
            let (send, connection) = builder.handshake(stream).await?;
            drivers.spawn(connection);
            for _ in 0..streams_each {
                callers.spawn(caller(send.clone(), target, start + length));
            }
        }
        let mut times = Vec::new();
        while let Some(caller) = callers.join_next().await {
            times.extend(caller??);
        }
        Ok::<_, Failed>((times, start.elapsed()))
    });
    let (times, took) = times.map_err(|error| format!("a call to {target} failed: {error}"))?;
    let calls = times.len() as f64;
    let times = Percentiles::of(times).ok_or("no call was made")?;
    Ok(Calls { calls, per_second: calls / took.as_secs_f64(), times })
}

async fn caller(send: SendRequest<Bytes>, target: SocketAddr, until: Instant) -> Result<Vec<f64>, Failed> {
    let message = framed();
    let mut times = Vec::new();
    while Instant::now() < until {
        let start = Instant::now();
        timeout(PATIENCE, call(&send, target, &message)).await??;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

async fn call(send: &SendRequest<Bytes>, target: SocketAddr, message: &Bytes) -> Result<(), Failed> {
    let mut send = send.clone().ready().await?;
    let request = Request::post(format!("http://{target}{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "bench")
        .body(())?;
    let (response, mut body) = send.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(format!("answered {} {:?}", response.status(), response.headers()).into());
    }
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    let trailers = body.trailers().await?.ok_or("an answer without trailers")?;
    match (length == message.len(), trailers.get("grpc-status").map(|status| status.as_bytes())) {
        (true, Some(b"0")) => Ok(()),
        (_, status) => Err(format!("{length} bytes and grpc-status {status:?}").into()),
    }
}
