//! A netlink socket, in the network namespace of the thread that opens it. The kernel answers while it is asked: no call
//! here waits for anything but the kernel, and none for longer than the deadline.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_sys::constants::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{
    Timeout, set_socket_send_buffer_size, set_socket_send_buffer_size_force, set_socket_timeout,
};

use crate::error::NetlinkError;
use crate::message::{HEADER, flags};
use crate::parse::{Received, messages, refusal};

/// The kernel answers within microseconds; a big transaction waits for others and for grace periods.
const DEADLINE: Duration = Duration::from_secs(10);
/// Larger than any datagram that the kernel makes (netlink_dump: at most 32 KiB).
const DATAGRAM: usize = 64 * 1024;
/// A table of ours is far smaller than that.
const LONGEST_DUMP: usize = 16 * 1024 * 1024;
/// A transaction must fit; netlink keeps 32 bytes of the send buffer for itself.
const SEND_BUFFER: usize = 4 * 1024 * 1024;
const ATTEMPTS: usize = 8;

/// Whom to speak with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nf_tables.
    Netfilter,
    /// Families with a name, such as ethtool.
    Generic,
    /// Sockets of this network namespace.
    Diagnosis,
}

/// A socket for requests.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    sequence: u32,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// Where the kernel has no such family.
    pub fn open(family: Family) -> io::Result<Socket> {
        let mut inner = netlink_sys::Socket::new(family.number())?;
        let port = inner.bind_auto()?.port_number();
        // Old kernels lack these; then there are only error numbers.
        let _ = inner.set_ext_ack(true).and_then(|()| inner.set_cap_ack(true));
        set_socket_timeout(&inner, Timeout::Recv, Some(DEADLINE))?;
        // The first needs CAP_NET_ADMIN and passes the system's limit; the second is what anybody gets.
        let _ = set_socket_send_buffer_size_force(&inner, SEND_BUFFER)
            .or_else(|_| set_socket_send_buffer_size(&inner, SEND_BUFFER));
        Ok(Socket { inner, port, sequence: 0 })
    }

    /// The socket's address, by which the kernel knows the owner of a table.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Sends a request that changes something, and hears whether it did.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn change(&mut self, mut message: Vec<u8>) -> Result<(), NetlinkError> {
        let sequence = self.number(&mut message);
        self.send(&message)?;
        self.read(sequence, |_| ())
    }

    /// Sends several messages at once, of which the last asks for an acknowledgement: a transaction.
    ///
    /// # Errors
    /// The kernel's first refusal; then nothing has changed.
    pub fn transaction(&mut self, batch: &[Vec<u8>]) -> Result<(), NetlinkError> {
        let mut datagram = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for message in batch {
            let mut message = message.clone();
            self.number(&mut message);
            datagram.extend(message);
        }
        self.send(&datagram)?;
        let (mut acknowledged, mut refused) = (false, None);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        // All answers are queued before send returns.
        while self.receive(&mut buffer, rustix::net::RecvFlags::DONTWAIT)? {
            for message in messages(&buffer) {
                let message = message?;
                let ours = message.sequence.wrapping_sub(first) < u32::try_from(batch.len()).unwrap_or(u32::MAX);
                if message.kind == Received::ERROR && ours {
                    match refusal(&message)? {
                        Some(refusal) => refused = refused.or(Some(refusal)),
                        None => acknowledged = true,
                    }
                }
            }
        }
        match refused {
            Some(refusal) => Err(refusal.into()),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::NoAnswer),
        }
    }

    /// Sends a request that is answered with messages; each is kind and payload. A dump that was disturbed is made
    /// again.
    ///
    /// # Errors
    /// The kernel's refusal, or an answer without end.
    pub fn ask(&mut self, mut message: Vec<u8>) -> Result<Vec<(u16, Vec<u8>)>, NetlinkError> {
        for _ in 0..ATTEMPTS {
            let sequence = self.number(&mut message);
            self.send(&message)?;
            let (mut answers, mut disturbed) = (Vec::new(), false);
            self.read(sequence, |answer| {
                disturbed |= answer.flags & flags::DUMP_INTERRUPTED != 0;
                answers.push((answer.kind, answer.payload.to_vec()));
            })?;
            if !disturbed {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Unstable(ATTEMPTS))
    }

    /// Reads up to the end of a dump, or an acknowledgement.
    fn read(&mut self, sequence: u32, mut on_message: impl FnMut(&Received<'_>)) -> Result<(), NetlinkError> {
        let (mut buffer, mut total) = (Vec::with_capacity(DATAGRAM), 0);
        loop {
            if !self.receive(&mut buffer, rustix::net::RecvFlags::empty())? {
                return Err(NetlinkError::NoAnswer);
            }
            total += buffer.len();
            if total > LONGEST_DUMP {
                return Err(NetlinkError::TooLong(LONGEST_DUMP));
            }
            for message in messages(&buffer) {
                let message = message?;
                match message.kind {
                    _ if message.sequence != sequence => {} // Left of an earlier request that failed.
                    Received::ERROR => return refusal(&message)?.map_or(Ok(()), |refusal| Err(refusal.into())),
                    Received::DONE => return Ok(()),
                    _ => on_message(&message),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // Not connected: to address 0, the kernel.
        self.inner.send_to(bytes, &netlink_sys::SocketAddr::new(0, 0), 0).map(|_| ())
    }

    /// One datagram. False when there is none.
    fn receive(&self, buffer: &mut Vec<u8>, flags: rustix::net::RecvFlags) -> io::Result<bool> {
        receive(&self.inner, buffer, flags)
    }

    /// Sets the next sequence number.
    fn number(&mut self, message: &mut [u8]) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        if let Some(field) = message.get_mut(8..HEADER - 4) {
            field.copy_from_slice(&self.sequence.to_ne_bytes());
        }
        self.sequence
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Hears what others change. Never blocks.
#[derive(Debug)]
pub struct Listener(netlink_sys::Socket);

impl Listener {
    /// Joins a multicast group.
    ///
    /// # Errors
    /// Where the kernel has no such family or group.
    pub fn open(family: Family, group: u32) -> io::Result<Listener> {
        let mut inner = netlink_sys::Socket::new(family.number())?;
        inner.bind_auto()?;
        inner.add_membership(group)?;
        inner.set_non_blocking(true)?;
        Ok(Listener(inner))
    }

    /// One datagram, or nothing.
    ///
    /// # Errors
    /// ENOBUFS where more happened than was read: then look at the whole.
    pub fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        Ok(receive(&self.0, &mut buffer, rustix::net::RecvFlags::DONTWAIT)?.then_some(buffer))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Family {
    fn number(self) -> isize {
        match self {
            Family::Route => NETLINK_ROUTE,
            Family::Netfilter => NETLINK_NETFILTER,
            Family::Generic => NETLINK_GENERIC,
            Family::Diagnosis => NETLINK_SOCK_DIAG,
        }
    }
}

fn receive(socket: &netlink_sys::Socket, buffer: &mut Vec<u8>, flags: rustix::net::RecvFlags) -> io::Result<bool> {
    buffer.clear();
    buffer.reserve(DATAGRAM);
    loop {
        match socket.recv(buffer, i32::try_from(flags.bits()).unwrap_or(0)) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
