//! The proxy's own connections must not be captured: a captured one would come back to the proxy for ever.
//!
//! By uid it is the process that is exempt and nothing is to be done per socket; by mark each socket that the proxy
//! opens (to apps, to peers, to the control plane, to a collector) carries the mark.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// What capture leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exemption {
    /// All sockets of the processes of this user. The proxy runs as it, and nothing else may.
    Uid(u32),
    /// Sockets with this mark (`SO_MARK`). Needs `CAP_NET_ADMIN` in the network namespace.
    Mark(u32),
    /// Nothing is captured here, so nothing is exempt.
    None,
}

impl Exemption {
    /// A socket for a connection of the proxy's own to `remote`: non-blocking, `TCP_NODELAY`, exempt from capture.
    ///
    /// # Errors
    /// The kernel's; `PermissionDenied` where the mark needs a capability that the process lacks.
    pub fn socket(self, remote: SocketAddr) -> io::Result<TcpSocket> {
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Exemption::Mark(mark) = self {
            socket.set_mark(mark)?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Connects to `remote` from such a socket. The caller sets the deadline.
    ///
    /// # Errors
    /// As [`Exemption::socket`], and the connection's own.
    pub async fn connect(self, remote: SocketAddr) -> io::Result<TcpStream> {
        self.socket(remote)?.connect(remote).await
    }
}
