//! A port of loopback for a program that is told where to listen, and that is stopped and started again there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// Nobody else gets the port while this lives, also while nobody listens there. A socket is bound to it and never listens:
/// the kernel gives such a port neither to who asks for any nor to who dials, and lets those listen there who set
/// SO_REUSEADDR, as servers do.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: Socket,
}

impl Port {
    /// # Errors
    /// When no port can be had.
    pub fn reserve() -> io::Result<Port> {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        held.set_reuse_address(true)?;
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = held.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Port { address, _held: held })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
#[path = "port_test.rs"]
mod port_test;
