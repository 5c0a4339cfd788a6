//! Binding: all workers' listeners of a port at once, so that the port is known before anything is redirected to it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// The kernel cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The listeners of one port.
#[derive(Debug)]
pub struct Bound {
    /// Where they listen; the port is the real one also where 0 was asked for.
    pub address: SocketAddr,
    /// One per worker, non-blocking, not yet registered with a runtime.
    pub listeners: Vec<TcpListener>,
}

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what}): {error}{}", hint(.error))]
pub struct BindError {
    pub address: SocketAddr,
    pub what: &'static str,
    #[source]
    pub error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it (ss -ltnp shows which), perhaps a second proxy",
        io::ErrorKind::AddrNotAvailable => "; the address is not on this host",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// `count` listeners on `address`, which the kernel shares connections out to. `[::]` takes IPv4 as well, and becomes
/// `0.0.0.0` on a host without IPv6.
///
/// # Errors
/// [`BindError`]; `what` names the listener in it.
pub fn bind(what: &'static str, address: SocketAddr, count: usize) -> Result<Bound, BindError> {
    match bind_all(address, count) {
        Err(error) if is_without_ipv6(&error) && address.ip() == Ipv6Addr::UNSPECIFIED => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            bind_all(address, count).map_err(|error| BindError { address, what, error })
        }
        outcome => outcome.map_err(|error| BindError { address, what, error }),
    }
}

fn bind_all(mut address: SocketAddr, count: usize) -> io::Result<Bound> {
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let listener = bind_one(address)?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(Bound { address, listeners })
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A proxy that restarts must get its ports back while old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    const EADDRNOTAVAIL: i32 = 99; // What net.ipv6.conf.all.disable_ipv6 makes of it.
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}
