//! Bytes as they are: connect, send, read until the other side ends it. For what no library would send.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::host::Host;

/// The most that is kept of an answer.
const ANSWER_BYTES: usize = 16 << 20;

/// What to do after the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Keep our side open and read.
    Read,
    /// Say that we are done (FIN) and read on.
    HalfClose,
}

/// How the exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection was refused (RST to the SYN).
    Refused,
    /// No way there (ICMP unreachable).
    Unreachable,
    /// The other side closed in order (FIN).
    Closed,
    /// The other side broke off (RST).
    Reset,
    /// Nothing of this until the deadline.
    Deadline,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// All that was received.
    pub bytes: Vec<u8>,
    /// How it ended.
    pub end: End,
    /// False when not even a connection came about.
    pub connected: bool,
}

impl Answer {
    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Connects from `host`, sends `bytes` at once and reads to the end or the deadline.
pub fn exchange(host: &Host, to: SocketAddr, bytes: impl Into<Vec<u8>>, then: Then, deadline: Duration) -> Answer {
    let bytes = bytes.into();
    host.block_on(async move {
        let mut answer = Answer { bytes: Vec::new(), end: End::Deadline, connected: false };
        // At the deadline the exchange is dropped where it stands; what it has read is in the answer.
        let _ = tokio::time::timeout(deadline, talk(to, &bytes, then, &mut answer)).await;
        answer
    })
}

async fn talk(to: SocketAddr, bytes: &[u8], then: Then, answer: &mut Answer) {
    let mut stream = match TcpStream::connect(to).await {
        Ok(stream) => stream,
        Err(error) => {
            answer.end = end_of(error.kind());
            return;
        }
    };
    answer.connected = true;
    let _ = stream.set_nodelay(true);
    // A failed write is seen again when reading, and then with what the other side said before.
    let _ = stream.write_all(bytes).await;
    if then == Then::HalfClose {
        let _ = stream.shutdown().await;
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                answer.end = End::Closed;
                return;
            }
            Ok(read) if answer.bytes.len() < ANSWER_BYTES => answer.bytes.extend_from_slice(&buffer[..read]),
            Ok(_) => {}
            Err(error) => {
                answer.end = end_of(error.kind());
                return;
            }
        }
    }
}

fn end_of(kind: ErrorKind) -> End {
    match kind {
        ErrorKind::ConnectionRefused => End::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => End::Unreachable,
        ErrorKind::TimedOut => End::Deadline,
        _ => End::Reset,
    }
}
