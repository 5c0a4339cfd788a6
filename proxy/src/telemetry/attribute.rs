//! What an attribute may be set to, each kind in the fewest steps to its bytes.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use super::attributes::{Attributes, MAX_TEXT};

/// What an attribute may be set to.
pub trait Attribute {
    fn write(self, name: &'static str, to: &mut Attributes);
}

/// A value as it shows itself, without a `String` between. Addresses and texts are faster by themselves.
#[derive(Debug)]
pub struct Shown<T>(pub T);

/// What is put together, as far as it is taken.
struct Cut {
    text: [u8; MAX_TEXT],
    length: usize,
}

impl Cut {
    const EMPTY: Cut = Cut { text: [0; MAX_TEXT], length: 0 };

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.length]).unwrap_or_default()
    }
}

impl fmt::Write for Cut {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let end = piece.floor_char_boundary(MAX_TEXT - self.length);
        self.text[self.length..self.length + end].copy_from_slice(&piece.as_bytes()[..end]);
        self.length += end;
        if end < piece.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl<T: fmt::Display> Attribute for Shown<T> {
    fn write(self, name: &'static str, to: &mut Attributes) {
        format_args!("{}", self.0).write(name, to);
    }
}
impl Attribute for fmt::Arguments<'_> {
    fn write(self, name: &'static str, to: &mut Attributes) {
        let mut cut = Cut::EMPTY;
        // Its only error is the cut.
        let _ = cut.write_fmt(self);
        to.text(name, cut.as_str());
    }
}
impl Attribute for &str {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.text(name, self);
    }
}
/// A name and a port: `name:port`.
impl Attribute for (&str, u16) {
    fn write(self, name: &'static str, to: &mut Attributes) {
        let (mut digits, mut first, mut left) = ([b'0'; 5], 5, self.1);
        while left > 0 || first == 5 {
            first -= 1;
            digits[first] += (left % 10) as u8;
            left /= 10;
        }
        [self.0, ":", std::str::from_utf8(&digits[first..]).unwrap_or_default()].write(name, to);
    }
}
/// Pieces of one text.
impl<const N: usize> Attribute for [&str; N] {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        if !to.pieces(name, &self) {
            let mut cut = Cut::EMPTY;
            // Its only error is the cut.
            let _ = self.into_iter().try_for_each(|piece| cut.write_str(piece));
            to.text(name, cut.as_str());
        }
    }
}
impl Attribute for IpAddr {
    fn write(self, name: &'static str, to: &mut Attributes) {
        match self {
            IpAddr::V4(address) => to.text(name, dotted(address, &mut [0; 15])),
            IpAddr::V6(address) => Shown(address).write(name, to),
        }
    }
}
impl Attribute for i64 {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.int(name, self);
    }
}
impl Attribute for u16 {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.int(name, self.into());
    }
}
impl Attribute for u32 {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.int(name, self.into());
    }
}
impl Attribute for u64 {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.int(name, i64::try_from(self).unwrap_or(i64::MAX));
    }
}
impl Attribute for bool {
    #[inline(always)]
    fn write(self, name: &'static str, to: &mut Attributes) {
        to.bool(name, self);
    }
}

/// As `Display` has it, in a tenth of its time.
fn dotted(address: Ipv4Addr, text: &mut [u8; 15]) -> &str {
    let mut length = 0;
    let mut put = |byte: u8| {
        text[length.min(14)] = byte;
        length += 1;
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    std::str::from_utf8(&text[..length]).unwrap_or_default()
}
