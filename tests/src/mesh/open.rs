//! A connection of an app that stays open: what becomes of it when the mesh changes its mind.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::Mesh;

const PATIENCE: Duration = Duration::from_secs(10);

/// An app's connection to something that echoes.
#[derive(Debug)]
pub struct OpenStream(TcpStream);

impl Mesh {
    /// Connects from an app's host and has one byte come back.
    ///
    /// # Errors
    /// When it does not.
    pub fn open_stream(&self, from: &str, to: &str) -> Result<OpenStream, String> {
        let to: SocketAddr = to.parse().map_err(|e| format!("{to}: {e}"))?;
        let connect = move || {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE)).map(|()| stream)
        };
        let stream =
            self.world().host(from).run(connect).map_err(|e: std::io::Error| format!("{from} to {to}: {e}"))?;
        let mut open = OpenStream(stream);
        if open.echoes() { Ok(open) } else { Err(format!("{from} to {to}: nothing came back")) }
    }
}

impl OpenStream {
    /// Whether a byte still goes there and comes back.
    pub fn echoes(&mut self) -> bool {
        let asked = self.0.set_read_timeout(Some(PATIENCE)).and_then(|()| self.0.write_all(b"x"));
        asked.is_ok() && self.0.read_exact(&mut [0]).is_ok()
    }

    /// How long it took until the other side ended it; `None`: it did not, within `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> Option<Duration> {
        let began = Instant::now();
        self.0.set_read_timeout(Some(limit)).ok()?;
        match self.0.read(&mut [0; 64]) {
            Ok(0) => Some(began.elapsed()),
            Ok(_) => None,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(_) => Some(began.elapsed()),
        }
    }
}
