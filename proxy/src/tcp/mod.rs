//! TCP: dialling with the options that matter on the path, copying both ways, and saying no by RST.
//!
//! Refuses nothing by itself. A refusal reaches an app as RST and never as FIN: an app that sees a clean end believes
//! that it got everything.

pub mod copy;
pub mod dial;
pub mod proxy_protocol;

pub use copy::{Copied, copy_both};
pub use dial::{DialOptions, dial, dial_from, dial_with};

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

#[cfg(test)]
#[path = "tcp_test.rs"]
mod tcp_test;

/// Idle firewalls cut at 240 s (Azure's default); three probes fit before that.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Closes with RST: what was not sent is dropped, and the other side learns that this was no orderly end.
pub fn reset(stream: TcpStream) {
    mark_reset(&stream);
    drop(stream);
}

/// Makes the coming close of `stream` an RST, for streams that another value owns.
pub fn mark_reset(stream: &TcpStream) {
    // Fails only when the socket is gone already, and then so is the connection.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Options of every connection on the path, accepted or dialled. Best effort: an app's connection that the kernel
/// already ended gets its error at the first read.
pub fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Small writes leave at once: batching is done above, where it is known what belongs together.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL));
}
