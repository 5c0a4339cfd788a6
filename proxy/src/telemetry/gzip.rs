//! gzip (RFC 1952) for what is exported, at a quarter of what a general compressor takes: spans of one proxy repeat each
//! other nearly to the last byte, with ids, times and numbers between that nothing makes shorter. miniz_oxide's fastest level
//! took as long for a span as all else that is done for it, and zlib-rs' two thirds of that (benches/RESULTS.md).
//!
//! So: deflate (RFC 1951) with the fixed codes, that need no counting and no second pass. Where ids are is told, and nobody
//! looks for them. Elsewhere a match is looked for at the distance of the last one first, because after a number the same text
//! goes on; else where the same four bytes began a piece before. The result is some tenth larger than theirs.
//!
//! A stream is made of pieces, each by whoever has its data in the cache ([`Piece`]); and put together by whoever sends it
//! ([`gzip`]).

use std::ops::Range;

use crc32fast::Hasher;

/// 2^this places of four bytes are remembered, the newest of those that share one.
const PLACES: u32 = 11;
/// Shorter ones cost as many bits as their bytes.
const SHORTEST: usize = 4;
const LONGEST: usize = 258;
const FARTHEST: usize = 32 * 1024;
/// Deflate; nothing is said of name, time and system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block, with the fixed codes, and its end: nothing is in it.
const LAST: [u8; 2] = [3, 0];
/// The length of a block that is stored as it is, and empty.
const NOTHING_STORED: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes that are said once, or twice: an id.
#[derive(Debug)]
pub(super) struct Id {
    pub(super) place: Range<usize>,
    /// Where it was said before.
    pub(super) before: Option<usize>,
}

/// Part of a stream: whole blocks of deflate, to a byte, that refer to nothing before them.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Vec<u8>,
    /// Of what was compressed, which was so long.
    crc: Hasher,
    length: usize,
}

impl Piece {
    /// `ids`, in order, are places in `data` that are not looked for.
    pub(super) fn of(data: &[u8], ids: impl IntoIterator<Item = Id>) -> Piece {
        let mut deflate = Deflate::of(data);
        let mut at = 0;
        for Id { place, before } in ids {
            deflate.part(at..place.start);
            match before.map(|before| place.start - before).filter(|distance| (1..=FARTHEST).contains(distance)) {
                Some(distance) => deflate.bits.matched(place.len(), &Distance::of(distance)),
                None => deflate.bits.literals(&data[place.clone()]),
            }
            at = place.end;
        }
        deflate.part(at..data.len());
        Piece { bytes: deflate.end(), crc: checksum(data), length: data.len() }
    }

    /// Before it was compressed.
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

/// All that was compressed into the pieces, as one.
pub(super) fn gzip<'p>(pieces: impl Iterator<Item = &'p Piece> + Clone) -> Vec<u8> {
    let (mut out, mut crc, mut length) = (HEADER.to_vec(), Hasher::new(), 0);
    out.reserve(pieces.clone().map(|piece| piece.bytes.len()).sum::<usize>() + 16);
    for piece in pieces {
        out.extend_from_slice(&piece.bytes);
        crc.combine(&piece.crc);
        length += piece.length;
    }
    out.extend_from_slice(&LAST);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    // Modulo 2^32.
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out
}

fn checksum(data: &[u8]) -> Hasher {
    let mut crc = Hasher::new();
    crc.update(data);
    crc
}

/// A piece that is being made.
struct Deflate<'d> {
    data: &'d [u8],
    bits: Bits,
    /// Where four bytes were last; the beginning where they were not.
    places: [u32; 1 << PLACES],
    back: Distance,
}

impl Deflate<'_> {
    fn of(data: &[u8]) -> Deflate<'_> {
        let mut bits = Bits { out: Vec::with_capacity(data.len() / 8), held: 0, count: 0 };
        // A block that is not the last one, with the fixed codes.
        bits.put(0b010, 3);
        Deflate { data, bits, places: [0; 1 << PLACES], back: Distance::of(1) }
    }

    fn end(self) -> Vec<u8> {
        let mut bits = self.bits;
        // The block's end is code 256: seven zeros. A block that is stored begins at a byte.
        bits.put(0, 7 + 3);
        bits.finish();
        bits.out.extend_from_slice(&NOTHING_STORED);
        bits.out
    }

    fn part(&mut self, part: Range<usize>) {
        let (data, mut at) = (self.data, part.start);
        while at + SHORTEST <= part.end {
            if let Some(same) = self.same(at) {
                let length = lengthen(data, at..part.end, self.back.distance, same);
                self.bits.matched(length, &self.back);
                at += length;
            } else {
                self.bits.literal(data[at]);
                at += 1;
            }
        }
        self.bits.literals(&data[at..part.end]);
    }

    /// How many of the next eight bytes were there before, at the distance of the last match or at another, which is the
    /// last one then.
    fn same(&mut self, at: usize) -> Option<usize> {
        let (data, next) = (self.data, eight(self.data, at));
        if let Some(from) = at.checked_sub(self.back.distance) {
            let same = equal(next, eight(data, from));
            if same >= SHORTEST {
                return Some(same);
            }
        }
        // Multiplied by a large odd number, the upper bits are of all four.
        let place = &mut self.places[((next as u32).wrapping_mul(0x9e37_79b1) >> (32 - PLACES)) as usize];
        let distance = at - std::mem::replace(place, at as u32) as usize;
        let same = equal(next, eight(data, at - distance));
        if same < SHORTEST || !(1..=FARTHEST).contains(&distance) {
            return None;
        }
        self.back = Distance::of(distance);
        Some(same)
    }
}

/// Zeros behind the end: whoever compares them knows how many there are.
fn eight(data: &[u8], at: usize) -> u64 {
    let rest = &data[at..];
    let whole = rest.first_chunk().copied();
    u64::from_le_bytes(whole.unwrap_or_else(|| std::array::from_fn(|n| rest.get(n).copied().unwrap_or(0))))
}

/// How many of the first bytes are the same.
fn equal(one: u64, other: u64) -> usize {
    ((one ^ other).trailing_zeros() / 8) as usize
}

/// How far it goes, inside of `part`; `same` bytes are known to be, all eight or the next one is not.
fn lengthen(data: &[u8], part: Range<usize>, distance: usize, same: usize) -> usize {
    let most = part.len().min(LONGEST);
    if same < 8 || most <= 8 {
        return same.min(most);
    }
    let end = part.start + most;
    let rest = |from: usize| (&data[part.start + from..end], &data[part.start + from - distance..end - distance]);
    let (next, before) = rest(8);
    // The machine compares 32 at a time as fast as eight.
    let wide = next.as_chunks::<32>().0.iter().zip(before.as_chunks::<32>().0);
    let mut length = 8 + 32 * wide.take_while(|(next, before)| next == before).count();
    let (next, before) = rest(length);
    for (next, before) in next.as_chunks().0.iter().zip(before.as_chunks().0) {
        let more = equal(u64::from_le_bytes(*next), u64::from_le_bytes(*before));
        length += more;
        if more < 8 {
            return length;
        }
    }
    // What is left is less than eight bytes.
    let (next, before) = rest(length);
    length + next.iter().zip(before).take_while(|(next, before)| next == before).count()
}

/// Codes wait here until there are bytes of them.
#[derive(Debug)]
struct Bits {
    out: Vec<u8>,
    held: u64,
    /// Fewer than 32, between two calls.
    count: u32,
}

impl Bits {
    /// `code` has `count` bits, 32 at most; the first one is the lowest.
    fn put(&mut self, code: u32, count: u32) {
        self.held |= u64::from(code) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    fn literal(&mut self, byte: u8) {
        self.put(u32::from(LITERALS[usize::from(byte)]), 8 + u32::from(byte >= 144));
    }

    fn literals(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.literal(*byte));
    }

    fn matched(&mut self, length: usize, back: &Distance) {
        let (code, count) = LENGTHS[length];
        // 12 bits at most, and 18.
        self.put(u32::from(code) | back.code << count, u32::from(count) + back.count);
    }

    /// To the end of a byte.
    fn finish(&mut self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.out.extend_from_slice(&self.held.to_le_bytes()[..bytes]);
    }
}

/// How far back, with its code.
#[derive(Debug)]
struct Distance {
    distance: usize,
    code: u32,
    count: u32,
}

impl Distance {
    /// RFC 1951 §3.2.5: two codes for each power of two, the rest of the bits as they are.
    fn of(distance: usize) -> Distance {
        let from_zero = distance as u32 - 1;
        let (symbol, extra) = match from_zero {
            0..4 => (from_zero, 0),
            _ => {
                let extra = from_zero.ilog2() - 1;
                (2 * extra + (from_zero >> extra), extra)
            }
        };
        let rest = from_zero & ((1 << extra) - 1);
        Distance { distance, code: reversed(symbol, 5) | rest << 5, count: 5 + extra }
    }
}

/// Codes are written from their highest bit on.
const fn reversed(code: u32, count: u32) -> u32 {
    code.reverse_bits() >> (32 - count)
}

/// RFC 1951 §3.2.6: 8 bits from 00110000 on, and 9 from 110010000 on.
const LITERALS: [u16; 256] = {
    let mut codes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let code = byte as u32;
        codes[byte] = if code < 144 { reversed(0x30 + code, 8) } else { reversed(0x190 + code - 144, 9) } as u16;
        byte += 1;
    }
    codes
};

/// §3.2.5: of each length its code with the bits that follow, and how many they are.
const LENGTHS: [(u16, u8); LONGEST + 1] = {
    let mut codes = [(0, 0); LONGEST + 1];
    let (mut length, mut symbol) = (3, 257);
    while length < LONGEST {
        // Eight codes without bits more, and then four for each number of them.
        let extra = if symbol < 265 { 0 } else { (symbol - 261) / 4 };
        let mut rest = 0;
        while rest < 1 << extra && length < LONGEST {
            codes[length] = length_code(symbol, rest, extra);
            length += 1;
            rest += 1;
        }
        symbol += 1;
    }
    codes[LONGEST] = length_code(285, 0, 0);
    codes
};

/// Up to 279 a code has 7 bits, above 8.
const fn length_code(symbol: u32, rest: u32, extra: u32) -> (u16, u8) {
    let (code, count) = if symbol < 280 { (symbol - 256, 7) } else { (0xc0 + symbol - 280, 8) };
    ((reversed(code, count) | rest << count) as u16, (count + extra) as u8)
}

#[cfg(test)]
#[path = "gzip_test.rs"]
mod gzip_test;
