//! The accept loop under every built-in server: a count of what was accepted, an owner for every connection, an end for
//! all of them when the server is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::host::{Host, Task};

/// Connections at once; the next ones wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;

/// The kernel's queue of connections that nobody accepted yet.
const BACKLOG: u32 = 4_096;

/// After a failed accept (out of file descriptors): long enough not to spin, short enough not to be noticed.
const BACK_OFF: Duration = Duration::from_millis(20);

/// A built-in server in a host. It ends, with its connections, when this is dropped.
pub struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    _task: Task<()>,
}

/// What reached the app.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl Server {
    /// Listens in `host` and serves each connection with `serve`. Returns when it listens.
    pub(super) fn start<F, R>(host: &Host, address: SocketAddr, serve: F) -> Result<Self, Error>
    where
        F: Fn(TcpStream, SocketAddr, Arc<Counts>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let doing = format!("listening on {address} in {}", host.name());
        let listening = host.block_on(async move {
            let listener = listen(address)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = listening.map_err(|error: std::io::Error| Error::system(doing, error))?;
        let counts = Arc::new(Counts::default());
        let task = host.tokio(accept(listener, Arc::clone(&counts), serve));
        Ok(Self { address, counts, _task: task })
    }

    /// Where it listens, with the port that was chosen when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far: stands still when a proxy refused before the app.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// HTTP requests that reached the app, or messages for servers that do not speak HTTP.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept<F, R>(listener: TcpListener, counts: Arc<Counts>, serve: F)
where
    F: Fn(TcpStream, SocketAddr, Arc<Counts>) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                let connection = serve(stream, peer, Arc::clone(&counts));
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
    }
}
