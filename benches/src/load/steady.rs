//! Callers that go on: one request after the other with a little time between, on a connection that is made anew when
//! it breaks. For a path that is cut under them: counts what was lost, and how long the longest answer took.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isthmus_world::{Host, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::http;

/// No answer after this is none.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between an answer and the next request.
const THINK: Duration = Duration::from_millis(5);

/// What became of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) longest: Duration,
}

/// Callers at work.
pub(crate) struct Steady {
    host: Host,
    stop: Arc<AtomicBool>,
    callers: Vec<Task<Counted>>,
}

impl Steady {
    pub(crate) fn start(host: &Host, target: SocketAddr, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |_| host.tokio(caller(target, Arc::clone(&stop)));
        Self { host: host.clone(), callers: (0..callers).map(spawn).collect(), stop: Arc::clone(&stop) }
    }

    /// Each caller waits for the answer that it has asked for.
    pub(crate) fn end(self) -> Counted {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Counted::default();
        for caller in self.callers {
            let counted = self.host.block_on(caller.join());
            all.answered += counted.answered;
            all.lost += counted.lost;
            all.longest = all.longest.max(counted.longest);
        }
        all
    }
}

async fn caller(target: SocketAddr, stop: Arc<AtomicBool>) -> Counted {
    let mut counted = Counted::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match timeout(PATIENCE, request(target, &mut connection)).await {
            Ok(Ok(())) => counted.answered += 1,
            Ok(Err(_)) | Err(_) => {
                counted.lost += 1;
                connection = None;
            }
        }
        counted.longest = counted.longest.max(start.elapsed());
        sleep(THINK).await;
    }
    counted
}

async fn request(target: SocketAddr, connection: &mut Option<TcpStream>) -> io::Result<()> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(target).await?,
    };
    stream.write_all(&http::get(target)).await?;
    let mut answer = [0; 1024];
    let mut length = 0;
    while !http::is_whole(&answer[..length])? {
        match stream.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    *connection = Some(stream);
    Ok(())
}
