//! Offloads of an interface, by ethtool's generic netlink family (linux/ethtool_netlink.h).

use crate::error::NetlinkError;
use crate::message::{Attributes, flags, message};
use crate::parse::attributes;
use crate::socket::{Family, Socket};

/// nlctrl, the family that knows the numbers of all others.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Command, version, two reserved bytes.
const HEADER: usize = 4;

const SET_FEATURES: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;

/// Switches features off, by the names that `ethtool -k` shows at the kernel's level, such as `rx-gro`.
///
/// # Errors
/// The kernel's refusal, such as EOPNOTSUPP from a kernel without ethtool's netlink.
pub fn switch_off(interface: &str, features: &[&str]) -> Result<(), NetlinkError> {
    let mut socket = Socket::open(Family::Generic)?;
    let ethtool = family_id(&mut socket, "ethtool")?;
    // A bit that is named and has no value is to be 0.
    let bits = features
        .iter()
        .fold(Attributes::new(), |bits, name| bits.nest(BITS_BIT, &Attributes::new().text(BIT_NAME, name)));
    let wanted = Attributes::new()
        .nest(FEATURES_HEADER, &Attributes::new().text(HEADER_NAME, interface))
        .nest(FEATURES_WANTED, &Attributes::new().nest(BITSET_BITS, &bits));
    socket.change(message(ethtool, flags::REQUEST | flags::ACK, &[SET_FEATURES, 1, 0, 0], &wanted))
}

fn family_id(socket: &mut Socket, name: &str) -> Result<u16, NetlinkError> {
    const ENOENT: i32 = 2;
    let request = Attributes::new().text(FAMILY_NAME, name);
    let request = message(CONTROL, flags::REQUEST | flags::ACK, &[GET_FAMILY, 1, 0, 0], &request);
    for (_, payload) in socket.ask(request)? {
        for attribute in attributes(payload.get(HEADER..).unwrap_or_default()) {
            if let (FAMILY_ID, value) = attribute?
                && let Some(id) = value.first_chunk()
            {
                return Ok(u16::from_ne_bytes(*id));
            }
        }
    }
    Err(std::io::Error::from_raw_os_error(ENOENT).into())
}
