//! Where a captured connection was going before capture sent it here.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::reason::Reason;

/// The destination that the caller meant.
///
/// # Errors
/// [`Reason::NotRedirected`] where the connection was made to this listener itself: nothing but capture may use its
/// port, else anyone could have the proxy connect anywhere.
pub fn original_destination(stream: &TcpStream) -> Result<SocketAddr, Reason> {
    let local = stream.local_addr().map_err(|_| Reason::NotRedirected)?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let socket = SockRef::from(stream);
    // By the family of the packets, which in a dual-stack socket is not that of the socket.
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // No entry in conntrack (ENOENT), or no conntrack at all (ENOPROTOOPT): nothing was redirected.
    let original = original.ok().and_then(|address| address.as_socket()).ok_or(Reason::NotRedirected)?;
    if original.port() == local.port() {
        // Untranslated. Also refuses an app on the very port of this listener, which could not have been bound.
        return Err(Reason::NotRedirected);
    }
    Ok(SocketAddr::new(original.ip().to_canonical(), original.port()))
}
