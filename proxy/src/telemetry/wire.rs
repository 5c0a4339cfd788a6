//! Protobuf's numbers and lengths on the wire, for what is written and read here without generated messages.

/// The bytes of the field that comes next, if it is this one.
pub(super) fn nested<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let mut rest = from.strip_prefix(&[tag])?;
    let length = usize::try_from(read_varint(&mut rest)?).ok()?;
    let (inside, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(inside)
}

pub(super) fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    Some(number)
}

pub(super) fn varint(out: &mut Vec<u8>, mut of: u64) {
    while of >= 0x80 {
        out.push(of as u8 | 0x80);
        of >>= 7;
    }
    out.push(of as u8);
}

/// Of what is shorter than 2 MiB.
pub(super) const fn varint_length(of: usize) -> usize {
    match of {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
}
