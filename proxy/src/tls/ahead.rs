//! Reads ahead under TLS. rustls asks for 4 KiB at a time, which is 262,144 reads for a gigabyte and two or three for the
//! requests of one wake-up; one read of what the socket has costs the copy of it, in cache.
//!
//! An idle connection holds no buffer: a small one goes back to the worker's spare, a larger one to the allocator.

use std::cell::RefCell;
use std::io;
use std::task::{Poll, ready};

use tokio::io::ReadBuf;

/// What a connection begins with: the requests of one wake-up.
const SMALL: usize = 16 * 1024;
/// Up to which it grows, fourfold, while reads fill it: bulk.
const LARGE: usize = 256 * 1024;

thread_local! {
    /// One small buffer for whichever connection reads next.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What was read of a socket and not asked for yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    buffer: Vec<u8>,
    /// `buffer[start..end]` is what waits.
    start: usize,
    end: usize,
    /// Of the next buffer.
    size: usize,
}

impl Ahead {
    /// Gives what waits, or what one `read` brings; the end of the socket where that brings nothing.
    pub(super) fn poll_read(
        &mut self,
        buf: &mut ReadBuf<'_>,
        read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if self.start == self.end {
            ready!(self.fill(read))?;
        }
        let count = buf.remaining().min(self.end - self.start);
        buf.put_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self, read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        (self.start, self.end) = (0, 0);
        self.make_room();
        let mut room = ReadBuf::new(&mut self.buffer);
        let done = read(&mut room);
        self.end = room.filled().len();
        if done.is_pending() {
            self.give_back();
        } else if self.end == self.buffer.len() {
            self.size = (self.buffer.len() * 4).min(LARGE);
        } else if self.end < self.buffer.len() / 4 {
            self.size = (self.buffer.len() / 4).max(SMALL);
        }
        done
    }

    fn make_room(&mut self) {
        let size = self.size.max(SMALL);
        if self.buffer.len() == size {
            return;
        }
        self.give_back();
        if size == SMALL {
            self.buffer = SPARE.take();
        }
        self.buffer.resize(size, 0);
    }

    fn give_back(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() == SMALL {
            SPARE.set(buffer);
        }
    }
}

#[cfg(test)]
#[path = "ahead_test.rs"]
mod ahead_test;
