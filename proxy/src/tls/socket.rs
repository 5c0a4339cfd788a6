//! Options of a mesh connection's socket, each on purpose.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Data that nobody acknowledged for so long ends the connection: the kernel alone would go on for 15 minutes
/// (tcp_retries2). Three retransmissions fit on a link of 300 ms that loses packets.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle firewalls cut at 240 s (Azure's default); pings in HTTP/2 come every 60 s, and these are for the time before and
/// after HTTP/2.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// More than this is not queued in the kernel beyond what is in flight, so that a ping or a small answer does not wait
/// behind a bulk stream's megabytes. Half a frame of ours: the next one is encrypted while this is sent.
const UNSENT: u32 = 512 * 1024;
/// IPv6's least MTU (1280) without headers (60) and timestamps (12): what every way must carry.
const SMALLEST_SEGMENT: u32 = 1_208;

/// Sets the options. Best effort: a connection that the kernel already ended gets its error at the first read.
pub(super) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // h2 writes what belongs together at once; Nagle would hold the last part of it back for a round trip.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(2);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

/// For a way that drops large packets and says nothing (RFC 4821 §1): both ends send segments that pass everywhere. The
/// kernel's own probing (net.ipv4.tcp_mtu_probing) belongs to the network namespace and is not ours to set; the MSS of
/// the SYN is. To be called before connecting.
pub fn use_smallest_segments(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_mss(SMALLEST_SEGMENT)
}
