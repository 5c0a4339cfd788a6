//! As many bytes as go through, one way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isthmus_world::Host;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::app::bytes::{CHUNK, SINK, SOURCE};

/// As the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// What went through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

impl Bulk {
    pub(crate) fn gigabytes(self) -> f64 {
        self.bytes / 1e9
    }

    pub(crate) fn gigabits_per_second(self) -> f64 {
        self.bytes * 8.0 / 1e9 / self.seconds
    }
}

/// Runs on `host` for `length`, counted on the caller's side after `warm_up`. A stream that ends is an error.
pub(crate) fn bulk(
    host: &Host,
    target: SocketAddr,
    (streams, way): (usize, Way),
    warm_up: Duration,
    length: Duration,
) -> Result<Bulk, String> {
    let carried = Arc::new(AtomicU64::new(0));
    let result = host.block_on(async move {
        // Ends with this function, and its streams with it.
        let mut tasks = JoinSet::new();
        for _ in 0..streams {
            let stream = TcpStream::connect(target).await?;
            tasks.spawn(carry(stream, way, Arc::clone(&carried)));
        }
        unbroken(&mut tasks, warm_up).await?;
        let (start, before) = (Instant::now(), carried.load(Ordering::Relaxed));
        unbroken(&mut tasks, length).await?;
        let bytes = carried.load(Ordering::Relaxed) - before;
        Ok::<Bulk, io::Error>(Bulk { bytes: bytes as f64, seconds: start.elapsed().as_secs_f64() })
    });
    result.map_err(|error| format!("bulk to {target}: {error}"))
}

async fn unbroken(tasks: &mut JoinSet<io::Result<()>>, length: Duration) -> io::Result<()> {
    tokio::select! {
        () = sleep(length) => Ok(()),
        Some(ended) = tasks.join_next() => {
            ended?.and_then(|()| Err(io::Error::other("a stream ended")))
        }
    }
}

/// Ends only with an error or with its stream.
async fn carry(mut stream: TcpStream, way: Way, carried: Arc<AtomicU64>) -> io::Result<()> {
    let mut chunk = vec![if way == Way::Up { SINK } else { SOURCE }; CHUNK];
    stream.write_all(&chunk[..1]).await?;
    loop {
        let bytes = match way {
            Way::Up => stream.write(&chunk).await?,
            Way::Down => stream.read(&mut chunk).await?,
        };
        if bytes == 0 {
            return Ok(());
        }
        carried.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
