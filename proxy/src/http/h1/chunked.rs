//! Chunked bodies (RFC 9112 §7.1). Every line ends with CRLF; sizes are plain hex; extensions are read over and bounded;
//! trailers are parsed as strictly as heads.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// A chunk's size line, extensions included. What is longer says nothing that anybody reads.
const MAX_SIZE_LINE: usize = 512;
/// Extensions beyond what the data pays for: a byte of body must not cost kilobytes of them (CVE-2023-39326).
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

/// Where a reader is in a body.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    extensions: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So much of the chunk is still to come; more than zero.
    Data(u64),
    /// CRLF after a chunk's data.
    DataEnd,
    Trailers,
    Ended,
}

/// What the bytes so far gave.
#[derive(Debug)]
pub enum Decoded {
    Data(Bytes),
    /// The body's end, with its trailers.
    End(Option<HeaderMap>),
    More,
}

/// Not as RFC 9112 §7.1 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed: {0}")]
pub struct BadChunk(pub &'static str);

impl Decoder {
    /// Takes what it can from `input`; never a byte after the body's end.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, BadChunk> {
        loop {
            match self.state {
                State::Size => match size_line(input)? {
                    None => return Ok(Decoded::More),
                    Some(line) => {
                        // Data pays for extensions: a long stream that signs its chunks may go on.
                        let paid =
                            usize::try_from(line.size).unwrap_or(usize::MAX).saturating_mul(2).saturating_add(16);
                        self.extensions = (self.extensions + line.extensions).saturating_sub(paid);
                        if self.extensions > MAX_EXTENSIONS {
                            return Err(BadChunk("too many extensions"));
                        }
                        input.advance(line.length);
                        self.state = if line.size == 0 { State::Trailers } else { State::Data(line.size) };
                    }
                },
                State::Data(_) if input.is_empty() => return Ok(Decoded::More),
                State::Data(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    let data = input.split_to(count).freeze();
                    self.end_of_data(input)?;
                    return Ok(Decoded::Data(data));
                }
                State::DataEnd => {
                    self.end_of_data(input)?;
                    if self.state == State::DataEnd {
                        return Ok(Decoded::More);
                    }
                }
                State::Trailers => {
                    let Some((trailers, length)) = trailers(input)? else { return Ok(Decoded::More) };
                    input.advance(length);
                    self.state = State::Ended;
                    return Ok(Decoded::End(trailers));
                }
                State::Ended => return Ok(Decoded::End(None)),
            }
        }
    }

    /// With the body's last data, its end is often there as well: then the reader is told so at once.
    pub fn take_plain_end(&mut self, input: &mut BytesMut) -> bool {
        if self.state == State::Size && input.starts_with(b"0\r\n\r\n") {
            input.advance(5);
            self.state = State::Ended;
        }
        self.state == State::Ended
    }

    fn end_of_data(&mut self, input: &mut BytesMut) -> Result<(), BadChunk> {
        if self.state != State::DataEnd {
            return Ok(());
        }
        match &input[..input.len().min(2)] {
            b"\r\n" => {
                input.advance(2);
                self.state = State::Size;
                Ok(())
            }
            b"" | b"\r" => Ok(()),
            _ => Err(BadChunk("data longer than its chunk")),
        }
    }
}

struct SizeLine {
    size: u64,
    length: usize,
    extensions: usize,
}

/// `1*HEXDIG [BWS ";" …] CRLF`. Signs, `0x`, spaces before the size and LF alone are refused.
fn size_line(input: &[u8]) -> Result<Option<SizeLine>, BadChunk> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(MAX_SIZE_LINE)]) else {
        if input.len() >= MAX_SIZE_LINE {
            return Err(BadChunk("a chunk's size line is too long"));
        }
        // What is there can be wrong already.
        let digits = input.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        return match (digits, input.get(digits)) {
            (0, Some(_)) => Err(BadChunk("a chunk's size")),
            (16.., _) => Err(BadChunk("a chunk's size")),
            _ => Ok(None),
        };
    };
    let Some(line) = input[..end].strip_suffix(b"\r") else {
        return Err(BadChunk("a chunk's size line ends without CR"));
    };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extensions = &line[digits..];
    // 15 digits keep sums far from the edge of 64 bits.
    if digits == 0 || digits > 15 {
        return Err(BadChunk("a chunk's size"));
    }
    let after = extensions.trim_ascii_start();
    let visible = |byte: &u8| matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
    if !(extensions.is_empty() || after.first() == Some(&b';')) || !extensions.iter().all(visible) {
        return Err(BadChunk("a chunk's extension"));
    }
    let size = std::str::from_utf8(&line[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let size = size.ok_or(BadChunk("a chunk's size"))?;
    Ok(Some(SizeLine { size, length: end + 1, extensions: extensions.len() }))
}

/// Fields up to an empty line, and how long they are.
fn trailers(input: &[u8]) -> Result<Option<(Option<HeaderMap>, usize)>, BadChunk> {
    if input.starts_with(b"\r\n") {
        return Ok(Some((None, 2)));
    }
    let mut last = 0;
    for place in memchr::memchr_iter(b'\n', input) {
        if place == 0 || input[place - 1] != b'\r' {
            return Err(BadChunk("a trailer's line ends without CR"));
        }
        if place - last == 1 && last > 0 {
            return parse_trailers(&input[..=place]).map(|trailers| Some((Some(trailers), place + 1)));
        }
        last = place + 1;
    }
    if input.len() > MAX_TRAILERS { Err(BadChunk("trailers are too large")) } else { Ok(None) }
}

fn parse_trailers(lines: &[u8]) -> Result<HeaderMap, BadChunk> {
    let wrong = BadChunk("a trailer");
    if lines.len() > MAX_TRAILERS {
        return Err(BadChunk("trailers are too large"));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(lines, &mut fields) else {
        return Err(wrong);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| wrong)?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| wrong)?);
    }
    Ok(trailers)
}

/// A chunk's size line.
pub fn write_size(size: usize, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 16];
    let mut place = text.len();
    let mut left = size;
    loop {
        place -= 1;
        text[place] = DIGITS[left & 0xf];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[place..]);
    out.extend_from_slice(b"\r\n");
}

/// The last chunk and the trailers.
pub fn write_end(trailers: Option<&HeaderMap>, out: &mut BytesMut) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        super::write::fields(trailers, None, out);
    }
    out.extend_from_slice(b"\r\n");
}
