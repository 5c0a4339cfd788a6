//! Frames on their way out: small ones are copied together, large payloads go from where they are. All of it leaves in as
//! few writes as the transport takes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::frame::{self, DATA, END_STREAM, Head};

/// Payloads up to so much are copied: that costs less than to keep track of them.
const COPIED: usize = 8 * 1024;
/// The first frames of a batch find so much room.
const ROOM: usize = 4 * 1024;
/// Slices of one write.
const SLICES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// So much of `bytes` is written.
    at: usize,
    /// Payloads, and the place in `bytes` that each comes before.
    shared: VecDeque<(usize, Bytes)>,
    shared_length: usize,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at + self.shared_length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// To append frames to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(ROOM);
        }
        &mut self.bytes
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::write(kind, flags, stream, payload, self.bytes());
    }

    pub(super) fn data(&mut self, stream: u32, piece: Bytes, ends: bool) {
        let flags = if ends { END_STREAM } else { 0 };
        if piece.len() <= COPIED {
            return self.frame(DATA, flags, stream, &piece);
        }
        let head = Head { length: piece.len(), kind: DATA, flags, stream };
        self.bytes().extend_from_slice(&head.bytes());
        self.shared_length += piece.len();
        self.shared.push_back((self.bytes.len(), piece));
    }

    /// Writes as much as one call takes.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let wrote = if self.shared.is_empty() {
            Pin::new(io).poll_write(cx, &self.bytes[self.at..])
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.slices(&mut slices);
            Pin::new(io).poll_write_vectored(cx, &slices[..count])
        };
        wrote.map_ok(|count| {
            self.consume(count);
            count
        })
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let (mut at, mut count) = (self.at, 0);
        for (place, payload) in &self.shared {
            if count + 2 > SLICES {
                return count;
            }
            slices[count] = IoSlice::new(&self.bytes[at..*place]);
            slices[count + 1] = IoSlice::new(payload);
            (at, count) = (*place, count + 2);
        }
        if count < SLICES {
            slices[count] = IoSlice::new(&self.bytes[at..]);
            count += 1;
        }
        count
    }

    fn consume(&mut self, mut count: usize) {
        while let Some((place, payload)) = self.shared.front_mut() {
            let before = count.min(*place - self.at);
            self.at += before;
            count -= before;
            if count < payload.len() {
                payload.advance(count);
                self.shared_length -= count;
                return;
            }
            count -= payload.len();
            self.shared_length -= payload.len();
            self.shared.pop_front();
        }
        self.at += count;
        if self.at == self.bytes.len() {
            // An idle connection holds nothing.
            *self = Output::default();
        }
    }
}
