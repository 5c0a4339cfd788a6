//! Dials with the options of the path.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// How to dial.
#[derive(Debug, Clone, Copy)]
pub struct DialOptions {
    /// SO_MARK that exempts our own connections from capture. Needs CAP_NET_ADMIN; where the exemption is by uid: none.
    pub mark: Option<u32>,
    /// How long the connection may take.
    pub deadline: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        DialOptions { mark: None, deadline: Duration::from_secs(5) }
    }
}

/// Connects to `address`. Errors are the kernel's own, and `TimedOut` when the deadline is over.
pub async fn dial(address: SocketAddr, options: DialOptions) -> io::Result<TcpStream> {
    dial_with(address, options, |_| Ok(())).await
}

/// [`dial`] from a socket that `set` may change before it connects.
pub async fn dial_with(
    address: SocketAddr,
    options: DialOptions,
    set: impl FnOnce(SockRef<'_>) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = options.mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    set(SockRef::from(&socket))?;
    let stream = tokio::time::timeout(options.deadline, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection attempt"))??;
    super::prepare(&stream);
    Ok(stream)
}

/// [`dial`] from an address that need not be on this host, as far as the other end can tell. Needs CAP_NET_ADMIN, and a
/// way back for what is answered (`redirect::source`).
pub async fn dial_from(source: IpAddr, address: SocketAddr, options: DialOptions) -> io::Result<TcpStream> {
    dial_with(address, options, |socket| {
        if source.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_ip_transparent_v6(true)?;
        }
        // The port is found when connecting, when both ends are known: else one caller had 28,000 connections to all apps
        // together, those that ended within the last minute included, and each new one searched for a gap among them.
        setsockopt(&*socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())
    })
    .await
}
