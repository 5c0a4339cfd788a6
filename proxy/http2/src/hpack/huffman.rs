//! The Huffman code of RFC 7541, Appendix B. It is canonical: symbols in the order of their codes' lengths, then of their
//! values, have consecutive codes, so that the lengths alone make the whole table.

/// Bits of each symbol's code; the last is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
const EOS: u16 = 256;
const LONGEST: usize = 30;

static CODES: Codes = Codes::build();

struct Codes {
    /// Symbols by their codes.
    symbols: [u16; 257],
    /// By length: one more than its last code, aligned to the left of 32 bits (as 64, because the last is 2^32).
    limit: [u64; LONGEST + 1],
    /// By length: its first code, aligned likewise, and that one's place in `symbols`.
    first: [u64; LONGEST + 1],
    place: [usize; LONGEST + 1],
    /// By the next eight bits: the symbol, and how many of them are its code. Zero: more than eight.
    short: [(u8, u8); 256],
}

impl Codes {
    const fn build() -> Codes {
        let mut codes = Codes {
            symbols: [0; 257],
            limit: [0; LONGEST + 1],
            first: [0; LONGEST + 1],
            place: [0; LONGEST + 1],
            short: [(0, 0); 256],
        };
        let (mut code, mut place, mut length) = (0u64, 0, 1);
        while length <= LONGEST {
            let step = 1u64 << (32 - length);
            (codes.first[length], codes.place[length]) = (code, place);
            let mut symbol = 0;
            while symbol < 257 {
                if LENGTHS[symbol] as usize == length {
                    codes.symbols[place] = symbol as u16;
                    if length <= 8 {
                        let (mut byte, end) = (code >> 24, (code + step) >> 24);
                        while byte < end {
                            codes.short[byte as usize] = (symbol as u8, length as u8);
                            byte += 1;
                        }
                    }
                    code += step;
                    place += 1;
                }
                symbol += 1;
            }
            codes.limit[length] = code;
            length += 1;
        }
        codes
    }

    /// The symbol that `bits` (aligned to the left) begin with, and its length.
    fn long(&self, bits: u32) -> (u16, u32) {
        let bits = u64::from(bits);
        let length = (9..LONGEST).find(|length| bits < self.limit[*length]).unwrap_or(LONGEST);
        let number = (bits.saturating_sub(self.first[length]) >> (32 - length)) as usize;
        let symbol = self.symbols.get(self.place[length] + number).copied().unwrap_or(EOS);
        (symbol, length as u32)
    }
}

/// Not a text in this code: a code cut off, EOS inside, or padding that is no padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCode;

/// Appends the text of `coded` to `out`.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), BadCode> {
    let mut rest = coded.iter();
    let (mut bits, mut have) = (0u64, 0u32);
    loop {
        while have <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        // Less than a byte of EOS's first bits is padding (RFC 7541 §5.2).
        if have < 8 && bits.leading_ones() >= have {
            return Ok(());
        }
        let (symbol, length) = match CODES.short[(bits >> 56) as usize] {
            (_, 0) => CODES.long((bits >> 32) as u32),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        let byte = u8::try_from(symbol).map_err(|_| BadCode)?;
        if length > have {
            return Err(BadCode);
        }
        out.push(byte);
        bits <<= length;
        have -= length;
    }
}
