//! What suites do to a mesh that no user would: nonsense, silence, thousands of connections, tokens that are no good.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Mesh;
use super::sidecar::Sidecar;
use crate::command::Command;

/// For one connect, write or answer of a hostile peer.
const PATIENCE: Duration = Duration::from_secs(5);
/// At most so many connections are opened at once: more would overflow a listen queue, which is not what is tested.
const AT_ONCE: usize = 200;
const JOIN: Duration = Duration::from_secs(30);

/// A listener that nobody should reach.
pub struct Lure {
    listener: TcpListener,
}

impl Lure {
    /// How many connections are waiting to be accepted.
    pub fn accepted(&self) -> usize {
        std::iter::from_fn(|| self.listener.accept().ok()).count()
    }
}

/// A connection on which nothing was said.
#[derive(Debug)]
pub struct Held {
    pub closed_by_peer: bool,
    pub after: Duration,
}

impl Mesh {
    /// Listens on a host where the mesh knows of nothing.
    pub fn listener_on(&self, host: &str, port: u16) -> Result<Lure, String> {
        let listener = self.world().host(host).run(move || {
            let listener = TcpListener::bind(("0.0.0.0", port))?;
            listener.set_nonblocking(true).map(|()| listener)
        });
        listener.map(|listener| Lure { listener }).map_err(|e| format!("port {port} on {host}: {e}"))
    }

    /// Sends bytes, then waits a little for the other side to close. What it answers does not matter.
    pub fn send_raw(&self, from: &str, to: &str, bytes: &[u8]) {
        let (to, bytes) = (to.to_owned(), bytes.to_vec());
        self.world().host(from).run(move || {
            let Ok(mut stream) = connect(&to) else { return };
            // Any of these may fail: the peer is free to hang up at once.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
            let _ = stream.read_to_end(&mut Vec::new());
        });
    }

    /// Connects, says nothing, and waits until the other side hangs up.
    pub fn hold_open(&self, from: &str, to: &str, limit: Duration) -> Result<Held, String> {
        let to = to.to_owned();
        self.world().host(from).run(move || {
            let mut stream = connect(&to).map_err(|e| format!("{to}: {e}"))?;
            stream.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
            let started = Instant::now();
            let end = stream.read_to_end(&mut Vec::new());
            let timed_out = end.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            Ok(Held { closed_by_peer: !timed_out, after: started.elapsed() })
        })
    }

    /// Opens `count` connections, makes one request on each, keeps them all open, then closes them. Returns how many
    /// were answered with 200.
    pub fn open_and_close(&self, from: &str, to: &str, count: usize) -> Result<usize, String> {
        let to: SocketAddr = to.parse().map_err(|e| format!("{to}: {e}"))?;
        let host = self.world().host(from);
        Ok(host.block_on(async move {
            let answered = Arc::new(AtomicUsize::new(0));
            let mut open = Vec::with_capacity(count);
            while open.len() < count {
                let some = AT_ONCE.min(count - open.len());
                let asked = (0..some).map(|_| tokio::spawn(ask_once(to, Arc::clone(&answered))));
                for connection in asked.collect::<Vec<_>>() {
                    open.push(connection.await.ok().flatten());
                }
            }
            drop(open);
            answered.load(Ordering::Relaxed)
        }))
    }

    /// A token of this lifetime, in a file of this run's directory; returns its path.
    pub fn token(&self, workload: &str, ttl: &str, file: &str) -> Result<PathBuf, String> {
        let path = self.dir.path().join(file);
        self.isthmus(&["token", "create", workload, "--ttl", ttl, "--out", &path.display().to_string()])?;
        Ok(path)
    }

    /// A file of this run's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a sidecar on `stranger` with a token that is no good; returns what it says before it gives up.
    pub fn join_must_fail(&self, token: &str, dir: &str) -> Result<String, String> {
        let dir = self.dir.path().join(dir);
        let config = Sidecar::write_config(&dir, &self.dir.path().join(token), true)?;
        let command = Command::new(&self.options.binary).args(["proxy", "--config"]).arg(&config).named("proxy");
        let done = self.world().host("stranger").output(command, JOIN).map_err(|e| e.to_string())?;
        match done.status.success() {
            true => Err(format!("it joined: {}{}", done.stdout, done.stderr)),
            false => Ok(done.stderr),
        }
    }

    /// Starts a sidecar on `stranger`, which joins with this token as soon as it can. It ends when it is dropped.
    pub fn join_as_stranger(&self, token: &str, dir: &str) -> Result<Sidecar, String> {
        let (dir, token) = (self.dir.path().join(dir), self.dir.path().join(token));
        Sidecar::start(self.world().host("stranger"), &self.options.binary, &dir, &token, true, &[])
    }

    /// Ends a sidecar in order and starts it again on the state that it left.
    pub fn restart_sidecar(&mut self, workload: &'static str) -> Result<(), String> {
        let mut old = self.sidecars.remove(workload).ok_or_else(|| format!("no sidecar at {workload}"))?;
        old.stop()?;
        self.start_sidecar_again(workload)
    }

    /// SIGKILL, as when its host dies.
    pub fn kill_sidecar(&mut self, workload: &'static str) -> Result<(), String> {
        let old = self.sidecars.remove(workload).ok_or_else(|| format!("no sidecar at {workload}"))?;
        old.kill();
        Ok(())
    }

    /// On the state that it left.
    pub fn start_sidecar_again(&mut self, workload: &'static str) -> Result<(), String> {
        self.start_sidecar_in(workload, &[])?.ready()
    }

    /// The same with more in its environment. Does not wait: it may be that it never gets ready.
    pub fn start_sidecar_in(
        &mut self,
        workload: &'static str,
        environment: &[(&str, &str)],
    ) -> Result<&Sidecar, String> {
        let options = self.options.clone();
        let token = self.dir.path().join(format!("{workload}.token"));
        let dir = self.dir.path().join(workload);
        let host = self.world.host(workload);
        let sidecar = Sidecar::start(host, &options.binary, &dir, &token, workload == "orders", environment)?;
        self.sidecars.insert(workload, sidecar);
        Ok(self.sidecar(workload))
    }
}

fn connect(to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().map_err(|e| std::io::Error::new(ErrorKind::InvalidInput, e))?;
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

async fn ask_once(to: SocketAddr, answered: Arc<AtomicUsize>) -> Option<tokio::net::TcpStream> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(to).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: orders.shop.svc.cluster.local\r\n\r\n").await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        (&head == b"HTTP/1.1 200").then_some(stream)
    };
    let stream = tokio::time::timeout(PATIENCE * 4, exchange).await.ok().flatten();
    answered.fetch_add(usize::from(stream.is_some()), Ordering::Relaxed);
    stream
}
