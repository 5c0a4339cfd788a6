//! What the kernel knows of one TCP connection, by sock_diag (linux/inet_diag.h, linux/tcp.h): the same numbers as
//! getsockopt(TCP_INFO), asked for by addresses, so that nobody has to hold the connection's socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::error::NetlinkError;
use crate::message::{Attributes, flags, message};
use crate::parse::attributes;
use crate::socket::{Family, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// The attribute, and its bit in a request.
const INFO: u16 = 2;
const ASK_INFO: u8 = 1 << (INFO - 1);
/// All states.
const STATES: u32 = !0;
/// "Whichever socket has these addresses": its cookie is not known.
const NO_COOKIE: u32 = !0;
/// `struct inet_diag_msg` ahead of the attributes.
const HEADER: usize = 72;
const ENOENT: i32 = 2;

/// One connection, as the kernel sees it. A kernel that is too old for a number leaves it 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// The smallest of late.
    pub min_rtt: Duration,
    /// Segments sent again since the connection began.
    pub retransmitted: u32,
    /// Segments with data sent since the connection began, those sent again included.
    pub sent: u32,
    /// Bytes per second that lately arrived at the peer, as far as the application had more to send.
    pub delivery_rate: u64,
    /// The path's MTU, in bytes.
    pub path_mtu: u32,
    /// Bytes that the peer has acknowledged.
    pub acknowledged: u64,
    /// Bytes that came.
    pub received: u64,
}

/// Asks for connections of the network namespace in which it was opened.
#[derive(Debug)]
pub struct TcpDiagnosis(Socket);

impl TcpDiagnosis {
    /// Opens the socket. Needs no privilege.
    ///
    /// # Errors
    /// Where the kernel has no sock_diag.
    pub fn open() -> io::Result<TcpDiagnosis> {
        Socket::open(Family::Diagnosis).map(TcpDiagnosis)
    }

    /// The connection between these two, seen from `local`; nothing where there is none (any more).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn of(&mut self, local: SocketAddr, peer: SocketAddr) -> Result<Option<TcpInfo>, NetlinkError> {
        let request =
            message(SOCK_DIAG_BY_FAMILY, flags::REQUEST | flags::ACK, &request(local, peer), &Attributes::new());
        let answers = match self.0.ask(request) {
            Err(error) if error.errno() == Some(ENOENT) => return Ok(None),
            answers => answers?,
        };
        for (_, payload) in answers {
            for attribute in attributes(payload.get(HEADER..).unwrap_or_default()) {
                if let (INFO, value) = attribute? {
                    return Ok(Some(TcpInfo::read(value)));
                }
            }
        }
        Ok(None)
    }
}

/// `struct inet_diag_req_v2`.
fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = vec![family, IPPROTO_TCP, ASK_INFO, 0];
    bytes.extend(STATES.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    bytes.extend(address(local.ip()));
    bytes.extend(address(peer.ip()));
    bytes.extend(0_u32.to_ne_bytes()); // Whichever interface.
    bytes.extend(NO_COOKIE.to_ne_bytes());
    bytes.extend(NO_COOKIE.to_ne_bytes());
    bytes
}

/// In 16 bytes, of which IPv4 uses the first four.
fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl TcpInfo {
    /// `struct tcp_info`; it grows at its end from kernel to kernel.
    fn read(value: &[u8]) -> TcpInfo {
        TcpInfo {
            path_mtu: u32_at(value, 60),
            rtt: Duration::from_micros(u32_at(value, 68).into()),
            retransmitted: u32_at(value, 100),
            min_rtt: Duration::from_micros(u32_at(value, 148).into()),
            sent: u32_at(value, 156),
            delivery_rate: u64_at(value, 160),
            acknowledged: u64_at(value, 120),
            received: u64_at(value, 128),
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
#[path = "tcp_info_test.rs"]
mod tcp_info_test;
