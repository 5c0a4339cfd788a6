//! Frames (RFC 9113 §4, §6): their heads, and the payloads that are no more than numbers. What a payload means for a stream
//! is said in [`super::receive`].

use h2::Reason;

pub const HEAD: usize = 9;
/// One entry of a SETTINGS payload.
pub const SETTING: usize = 6;
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The greatest stream id, and the greatest window.
pub const MAX_ID: u32 = (1 << 31) - 1;
/// What every peer takes.
pub const LEAST_FRAME: usize = 16 * 1024;
pub const FIRST_WINDOW: u32 = 65_535;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING.
pub const ACK: u8 = 0x1;
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

/// The nine bytes before each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    pub fn parse(bytes: &[u8; HEAD]) -> Head {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Head { length, kind, flags, stream: u32::from_be_bytes(stream) & MAX_ID }
    }

    pub fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame whose payload is there as a whole.
pub fn write(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

/// What of a HEADERS payload is the block: without padding and priority.
pub fn header_block(head: Head, payload: &[u8]) -> Result<&[u8], Reason> {
    let mut block = payload;
    if head.has(PADDED) {
        let (padding, rest) = block.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Reason::PROTOCOL_ERROR)?;
        block = &rest[..length];
    }
    if head.has(WITH_PRIORITY) {
        block = block.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
    }
    Ok(block)
}

/// A payload of one number.
pub fn number(payload: &[u8]) -> Result<u32, Reason> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Reason::FRAME_SIZE_ERROR)
}

/// The settings that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    TableSize(u32),
    EnablePush(bool),
    MaxStreams(u32),
    StreamWindow(u32),
    MaxFrame(u32),
    MaxHeaders(u32),
    /// RFC 8441.
    ConnectProtocol(bool),
}

impl Setting {
    /// `Ok(None)`: one that nobody here knows (RFC 9113 §6.5.2).
    pub fn parse(bytes: [u8; SETTING]) -> Result<Option<Setting>, Reason> {
        let [a, b, value @ ..] = bytes;
        let value = u32::from_be_bytes(value);
        let truth = || match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Reason::PROTOCOL_ERROR),
        };
        Ok(Some(match u16::from_be_bytes([a, b]) {
            1 => Setting::TableSize(value),
            2 => Setting::EnablePush(truth()?),
            3 => Setting::MaxStreams(value),
            4 if value > MAX_ID => return Err(Reason::FLOW_CONTROL_ERROR),
            4 => Setting::StreamWindow(value),
            5 if !(LEAST_FRAME as u32..1 << 24).contains(&value) => return Err(Reason::PROTOCOL_ERROR),
            5 => Setting::MaxFrame(value),
            6 => Setting::MaxHeaders(value),
            8 => Setting::ConnectProtocol(truth()?),
            _ => return Ok(None),
        }))
    }

    pub fn bytes(self) -> [u8; SETTING] {
        let (id, value) = match self {
            Setting::TableSize(value) => (1u16, value),
            Setting::EnablePush(on) => (2, u32::from(on)),
            Setting::MaxStreams(value) => (3, value),
            Setting::StreamWindow(value) => (4, value),
            Setting::MaxFrame(value) => (5, value),
            Setting::MaxHeaders(value) => (6, value),
            Setting::ConnectProtocol(on) => (8, u32::from(on)),
        };
        let ([a, b], [c, d, e, f]) = (id.to_be_bytes(), value.to_be_bytes());
        [a, b, c, d, e, f]
    }
}

/// Reads a SETTINGS payload.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = Result<Option<Setting>, Reason>> + '_ {
    let whole = payload.len().is_multiple_of(SETTING);
    let (chunks, _) = payload.as_chunks::<SETTING>();
    let known = chunks.iter().map(|bytes| Setting::parse(*bytes));
    known.chain((!whole).then_some(Err(Reason::FRAME_SIZE_ERROR)))
}
