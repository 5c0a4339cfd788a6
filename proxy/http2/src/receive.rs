//! What comes from the peer, frame by frame, from whatever pieces the transport gives: nothing is kept but what is cut off.
//! DATA goes on as it comes, without waiting for its frame's end.
//!
//! An error here ends the connection with that reason; a stream that misbehaves ends alone.

use h2::Reason;

use super::frame::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEAD, HEADERS, Head, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::state::{Role, State};

/// A compressed head has so much more than an uncompressed one may have: Huffman's code makes few bytes more.
const MORE_COMPRESSED: usize = 32 * 1024;
/// Pieces of one head: at 16 KiB, the largest needs eight.
const MAX_CONTINUATIONS: usize = 32;
/// Payloads of all others.
const MAX_CONTROL: usize = 16 * 1024;

/// DATA frames in a row that bring nothing.
const MAX_EMPTY: usize = 1_000;

/// Where in the peer's bytes we are.
#[derive(Debug)]
pub(super) struct Reading {
    stage: Stage,
    /// Of a payload that is not there as a whole.
    partial: Vec<u8>,
    /// A head whose CONTINUATION is to come: nothing else may.
    block: Option<Block>,
}

#[derive(Debug)]
enum Stage {
    Head([u8; HEAD], usize),
    Payload(Head),
    Data {
        stream: u32,
        left: usize,
        padding: Padding,
        ends: bool,
    },
    /// A frame of a kind that nobody here knows.
    Unknown(usize),
}

#[derive(Debug, Clone, Copy)]
enum Padding {
    /// How much there is comes first.
    Unread,
    Length(usize),
}

#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
    pieces: usize,
}

const BETWEEN: Stage = Stage::Head([0; HEAD], 0);

impl Default for Reading {
    fn default() -> Self {
        Reading { stage: BETWEEN, partial: Vec::new(), block: None }
    }
}

impl State {
    /// Takes all of `bytes`.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Reason> {
        while !bytes.is_empty() {
            let used = match &mut self.reading.stage {
                Stage::Head(head, have) => {
                    let used = bytes.len().min(HEAD - *have);
                    head[*have..*have + used].copy_from_slice(&bytes[..used]);
                    *have += used;
                    if *have == HEAD {
                        let head = Head::parse(head);
                        self.begin_frame(head)?;
                    }
                    used
                }
                Stage::Payload(head) => {
                    let head = *head;
                    self.payload(head, bytes)?
                }
                Stage::Data { .. } => self.data(bytes)?,
                Stage::Unknown(left) => {
                    let used = bytes.len().min(*left);
                    *left -= used;
                    if *left == 0 {
                        self.reading.stage = BETWEEN;
                    }
                    used
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn begin_frame(&mut self, head: Head) -> Result<(), Reason> {
        if head.length > self.settings.max_frame as usize {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let expected = self.reading.block.as_ref().map(|block| block.stream);
        let found = (head.kind == CONTINUATION).then_some(head.stream);
        if expected != found {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let most = match head.kind {
            DATA => return self.begin_data(head),
            HEADERS | CONTINUATION => self.most_block(),
            PRIORITY | RST_STREAM | SETTINGS | PUSH_PROMISE | PING | GOAWAY | WINDOW_UPDATE => MAX_CONTROL,
            _ => {
                self.reading.stage = if head.length == 0 { BETWEEN } else { Stage::Unknown(head.length) };
                return Ok(());
            }
        };
        if head.length > most {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if head.length == 0 {
            self.reading.stage = BETWEEN;
            return self.frame(head, &[]);
        }
        self.reading.stage = Stage::Payload(head);
        Ok(())
    }

    fn most_block(&self) -> usize {
        self.settings.max_header_bytes as usize + MORE_COMPRESSED
    }

    fn payload(&mut self, head: Head, bytes: &[u8]) -> Result<usize, Reason> {
        if self.reading.partial.is_empty() && bytes.len() >= head.length {
            self.reading.stage = BETWEEN;
            self.frame(head, &bytes[..head.length])?;
            return Ok(head.length);
        }
        let used = bytes.len().min(head.length - self.reading.partial.len());
        self.reading.partial.extend_from_slice(&bytes[..used]);
        if self.reading.partial.len() == head.length {
            self.reading.stage = BETWEEN;
            let whole = std::mem::take(&mut self.reading.partial);
            self.frame(head, &whole)?;
        }
        Ok(used)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        match head.kind {
            HEADERS => self.headers_frame(head, payload),
            CONTINUATION => self.continuation(head, payload),
            RST_STREAM => self.reset_by_peer(head, payload),
            SETTINGS => self.peer_settings(head, payload),
            PING => self.ping(head, payload),
            GOAWAY => self.peer_goes(head, payload),
            WINDOW_UPDATE => self.window_update(head, payload),
            PRIORITY if head.stream == 0 => Err(Reason::PROTOCOL_ERROR),
            PRIORITY if payload.len() != 5 => Err(Reason::FRAME_SIZE_ERROR),
            // What it says was never of use (RFC 9113 §5.3).
            PRIORITY => Ok(()),
            // Nobody here allows it.
            _ => Err(Reason::PROTOCOL_ERROR),
        }
    }

    /// Whether the peer may speak of a stream that is not there: one that was, and not one to come.
    pub(super) fn was(&self, stream: u32) -> Result<(), Reason> {
        let ours = stream % 2 == 1;
        let known = match self.role {
            Role::Client => ours && stream < self.next_id,
            Role::Server => ours && stream <= self.last_id,
        };
        if known && stream != 0 { Ok(()) } else { Err(Reason::PROTOCOL_ERROR) }
    }

    fn begin_data(&mut self, head: Head) -> Result<(), Reason> {
        let length = head.length as i64;
        if length > self.recv_window {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        self.recv_window -= length;
        let key = self.streams.key_of(head.stream);
        match key.and_then(|key| self.streams.get_mut(key)) {
            None => self.was(head.stream)?,
            Some(stream) => {
                let wrong = if stream.remote_ended {
                    Some(Reason::STREAM_CLOSED)
                } else if length > stream.recv_window {
                    Some(Reason::FLOW_CONTROL_ERROR)
                } else {
                    (!stream.head_came).then_some(Reason::PROTOCOL_ERROR)
                };
                stream.recv_window -= length;
                if let (Some(reason), Some(key)) = (wrong, key) {
                    self.offence(key, reason)?;
                }
            }
        }
        let padding = if head.has(PADDED) { Padding::Unread } else { Padding::Length(0) };
        if head.has(PADDED) && head.length == 0 {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let (stream, ends) = (head.stream, head.has(END_STREAM));
        // They cost no window, and so nothing else stops them (CVE-2019-9518).
        self.empty = if head.length == 0 && !ends { self.empty + 1 } else { 0 };
        if self.empty > MAX_EMPTY {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.reading.stage = Stage::Data { stream, left: head.length, padding, ends };
        if head.length == 0 { self.end_data() } else { Ok(()) }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let Stage::Data { stream, left, padding, .. } = &mut self.reading.stage else { return Ok(0) };
        let stream = *stream;
        let key = self.streams.key_of(stream);
        let used = match *padding {
            Padding::Unread => {
                *left -= 1;
                let length = usize::from(bytes[0]);
                if length > *left {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                *padding = Padding::Length(length);
                self.release(key, 1);
                1
            }
            Padding::Length(length) if *left > length => {
                let used = bytes.len().min(*left - length);
                *left -= used;
                let follows = *left - length;
                self.piece(stream, &bytes[..used], follows)?;
                used
            }
            Padding::Length(_) => {
                let used = bytes.len().min(*left);
                *left -= used;
                self.release(key, used);
                used
            }
        };
        if matches!(&self.reading.stage, Stage::Data { left: 0, .. }) {
            self.end_data()?;
        }
        Ok(used)
    }

    fn piece(&mut self, id: u32, bytes: &[u8], follows: usize) -> Result<(), Reason> {
        let key = self.streams.key_of(id);
        let found = key.and_then(|key| Some((key, self.streams.get_mut(key)?)));
        let wanted = found.filter(|(_, stream)| !stream.deaf && stream.failed.is_none());
        let Some((key, stream)) = wanted else {
            self.release(None, bytes.len());
            return Ok(());
        };
        if let Some(expected) = &mut stream.expected {
            match expected.checked_sub(bytes.len() as u64) {
                Some(left) => *expected = left,
                None => {
                    self.release(None, bytes.len());
                    return self.offence(key, Reason::PROTOCOL_ERROR);
                }
            }
        }
        stream.held += bytes.len();
        stream.data.take_in(bytes, follows);
        stream.wake_reader();
        Ok(())
    }

    fn end_data(&mut self) -> Result<(), Reason> {
        let Stage::Data { stream, ends, .. } = std::mem::replace(&mut self.reading.stage, BETWEEN) else {
            return Ok(());
        };
        let Some(key) = self.streams.key_of(stream) else { return Ok(()) };
        if let Some(stream) = self.streams.get_mut(key) {
            stream.data.seal();
        }
        if ends { self.end_remote(key) } else { Ok(()) }
    }

    fn headers_frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let block = frame::header_block(head, payload)?;
        let ends = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.headers(head.stream, ends, block);
        }
        self.reading.block = Some(Block { stream: head.stream, ends, bytes: block.to_vec(), pieces: 0 });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let Some(mut block) = self.reading.block.take() else { return Err(Reason::PROTOCOL_ERROR) };
        block.pieces += 1;
        block.bytes.extend_from_slice(payload);
        // CVE-2024-27316: a head without end.
        if block.pieces > MAX_CONTINUATIONS || block.bytes.len() > self.most_block() {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if head.has(END_HEADERS) {
            return self.headers(block.stream, block.ends, &block.bytes);
        }
        self.reading.block = Some(block);
        Ok(())
    }
}
