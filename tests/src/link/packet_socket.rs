//! Whole Ethernet frames from and to one interface.
//!
//! Safe code only: the address that bind(2) wants comes from getifaddrs(3), which hands out a ready `sockaddr_ll` of
//! each interface. Its protocol field is 0, and then Linux keeps the protocol that the socket was made with.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recvmsg, send,
    setsockopt, socket, sockopt,
};

use crate::clock::{monotonic_ns, realtime_ns};

/// Room for a burst at line rate while the emulator's thread waits for a processor: 8 MB are 64 ms at 1 Gbit/s.
/// An ordinary user gets less (net.core.rmem_max); what is lost for that is counted.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Control messages: a timestamp and a drop counter, with room to spare.
const CONTROL_BYTES: usize = 128;

/// A timestamp older than this is not believed: somebody set the clock.
const OLDEST_NS: u64 = 1_000_000_000;

pub(super) struct PacketSocket {
    fd: OwnedFd,
    control: Vec<u8>,
    /// The kernel's running count of frames we were too slow for.
    overflowed: u32,
}

/// A frame that was read.
pub(super) struct Received {
    pub(super) bytes: usize,
    /// When the kernel got it, in nanoseconds of the monotonic clock.
    pub(super) arrived: u64,
    /// Frames lost before it, because we did not read fast enough.
    pub(super) lost_before: u32,
}

impl PacketSocket {
    /// Everything that the interface receives, and nothing that we send through it.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        let is_packet = |address: &nix::sys::socket::SockaddrStorage| address.family() == Some(AddressFamily::Packet);
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address.filter(is_packet))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}")))?;
        bind(fd.as_raw_fd(), &address)?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&fd, sockopt::RxqOvfl, &1)?;
        if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        Ok(Self { fd, control: vec![0; CONTROL_BYTES], overflowed: 0 })
    }

    /// The next frame, or `None` when there is none at the moment.
    pub(super) fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<Received>> {
        let mut parts = [IoSliceMut::new(frame)];
        let message = match recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, Some(&mut self.control), MsgFlags::empty()) {
            Ok(message) => message,
            // ENETDOWN is reported once after an interface went down; it may come up again.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut received = Received { bytes: message.bytes, arrived: monotonic_ns(), lost_before: 0 };
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(stamp) => {
                    let stamp = u64::try_from(stamp.tv_sec()).unwrap_or(0) * 1_000_000_000
                        + u64::try_from(stamp.tv_nsec()).unwrap_or(0);
                    let age = realtime_ns().saturating_sub(stamp);
                    received.arrived -= if age < OLDEST_NS { age } else { 0 };
                }
                ControlMessageOwned::RxqOvfl(count) => {
                    received.lost_before = count.wrapping_sub(self.overflowed);
                    self.overflowed = count;
                }
                _ => {}
            }
        }
        Ok(Some(received))
    }

    /// Sends a frame. `false` when the kernel did not take it.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        send(self.fd.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT).is_ok()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
