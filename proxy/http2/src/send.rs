//! What goes out on a stream, as far as the peer's windows and our own backlog let it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, StatusCode};

use super::error::StreamError;
use super::frame::{self, CONTINUATION, END_HEADERS, END_STREAM, HEAD, HEADERS, Head, MAX_ID};
use super::hpack::Encoder;
use super::state::State;
use super::stream::{Key, Stream, Unsent};
use crate::head;

impl State {
    /// A new stream of ours; it waits where the peer takes no more at once.
    pub(super) fn open(&mut self, request: Request<()>, ends: bool) -> Result<Key, StreamError> {
        if self.facts.closed.load(Ordering::Relaxed) {
            let gone = StreamError::GoAway { reason: Reason::NO_ERROR, remote: true };
            return Err(self.dead.clone().unwrap_or(gone));
        }
        let stream = Stream {
            // The response's and the sender's.
            handles: 2,
            accepted: true,
            send_window: self.peer_window,
            recv_window: self.own_window,
            bodiless: *request.method() == Method::HEAD,
            ..Stream::default()
        };
        let key = self.streams.insert(stream);
        if self.opening.is_empty() && self.has_room_for_streams() {
            self.begin(key, &request, ends);
        } else {
            let unsent = Unsent { head: Some(request), ends, ..Unsent::default() };
            if let Some(stream) = self.streams.get_mut(key) {
                stream.unsent = Some(Box::new(unsent));
            }
            self.opening.push_back(key);
        }
        Ok(key)
    }

    fn has_room_for_streams(&self) -> bool {
        self.open < self.facts.most_streams.load(Ordering::Relaxed)
    }

    /// Streams that waited until others ended.
    pub(super) fn open_waiting(&mut self) {
        while self.has_room_for_streams()
            && let Some(key) = self.opening.pop_front()
        {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let Some(unsent) = &mut stream.unsent else { continue };
            let Some(request) = unsent.head.take() else { continue };
            let ends = unsent.ends && unsent.pieces.is_empty() && unsent.trailers.is_none();
            if ends {
                stream.unsent = None;
            }
            self.begin(key, &request, ends);
            self.flush_unsent(key);
        }
    }

    fn begin(&mut self, key: Key, request: &Request<()>, ends: bool) {
        let id = self.next_id;
        self.next_id += 2;
        if self.next_id >= MAX_ID {
            // Another connection has all the numbers anew.
            self.facts.closed.store(true, Ordering::Relaxed);
        }
        self.open += 1;
        self.streams.name(key, id);
        if let Some(stream) = self.streams.get_mut(key) {
            (stream.counted, stream.local_ended) = (true, ends);
            stream.wake_writer();
        }
        self.write_head(id, ends, |encoder, out| head::write_request(request, encoder, out));
    }

    fn write_head(&mut self, id: u32, ends: bool, write: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let last = if ends { END_STREAM } else { 0 };
        let out = self.out.bytes();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        write(&mut self.encoder, out);
        let length = out.len() - start - HEAD;
        if length <= self.peer_frame {
            let head = Head { length, kind: HEADERS, flags: last | END_HEADERS, stream: id };
            out[start..start + HEAD].copy_from_slice(&head.bytes());
            return;
        }
        let block = out.split_off(start + HEAD);
        out.truncate(start);
        let pieces = block.chunks(self.peer_frame);
        let count = pieces.len();
        for (place, piece) in pieces.enumerate() {
            let (kind, flags) = if place == 0 { (HEADERS, last) } else { (CONTINUATION, 0) };
            let end = if place + 1 == count { END_HEADERS } else { 0 };
            frame::write(kind, flags | end, id, piece, out);
        }
    }

    /// An answer's head, an interim one included.
    pub(super) fn respond(
        &mut self,
        key: Key,
        status: StatusCode,
        headers: &HeaderMap,
        ends: bool,
    ) -> Result<(), StreamError> {
        let id = self.sendable(key)?.id;
        self.write_head(id, ends, |encoder, out| head::write_response(status, headers, encoder, out));
        if ends {
            self.end_local(key);
        }
        Ok(())
    }

    fn end_local(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.local_ended = true;
        }
        self.settle(key);
    }

    fn sendable(&self, key: Key) -> Result<&Stream, StreamError> {
        let stream = self.streams.get(key).ok_or_else(StreamError::ended)?;
        match &stream.failed {
            Some(error) => Err(error.clone()),
            None if stream.local_ended || stream.unsent.as_ref().is_some_and(|unsent| unsent.ends) => {
                Err(StreamError::ended())
            }
            None => Ok(stream),
        }
    }

    /// How much of the stream would leave now.
    pub(super) fn room(&self, key: Key) -> Result<usize, StreamError> {
        let stream = self.sendable(key)?;
        if stream.id == 0 || stream.unsent.is_some() {
            return Ok(0);
        }
        // All or nothing: room for a few bytes would make frames of a few bytes.
        let backlog = self.settings.backlog;
        let full = self.out.len() + self.writing >= backlog;
        let window = stream.send_window.min(self.send_window).max(0);
        Ok(if full { 0 } else { backlog.min(window as usize) })
    }

    /// Sends what the windows take now, and keeps the rest for when they take more.
    pub(super) fn send(&mut self, key: Key, mut piece: Bytes, ends: bool) -> Result<(), StreamError> {
        let stream = self.sendable(key)?;
        let window = stream.send_window.min(self.send_window).max(0) as usize;
        let at_once = stream.id != 0 && stream.unsent.is_none();
        if at_once && piece.len() <= window {
            self.write_data(key, piece, ends);
            return Ok(());
        }
        if at_once && window > 0 {
            let part = piece.split_to(window);
            self.write_data(key, part, false);
        }
        self.keep(key, |unsent| {
            unsent.pieces.push_back(piece);
            unsent.ends = ends;
        });
        Ok(())
    }

    pub(super) fn send_trailers(&mut self, key: Key, mut trailers: HeaderMap) -> Result<(), StreamError> {
        trailers.remove(CONTENT_LENGTH);
        let stream = self.sendable(key)?;
        if stream.id != 0 && stream.unsent.is_none() {
            let id = stream.id;
            self.write_head(id, true, |encoder, out| head::write_trailers(&trailers, encoder, out));
            self.end_local(key);
            return Ok(());
        }
        self.keep(key, |unsent| {
            unsent.trailers = Some(trailers);
            unsent.ends = true;
        });
        Ok(())
    }

    fn keep(&mut self, key: Key, keep: impl FnOnce(&mut Unsent)) {
        if let Some(stream) = self.streams.get_mut(key) {
            keep(stream.unsent.get_or_insert_default());
        }
        self.wait_for_room(key);
    }

    /// The stream is looked at again when the connection has room.
    pub(super) fn wait_for_room(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key)
            && !std::mem::replace(&mut stream.waits, true)
        {
            self.waiting.push_back(key);
        }
    }

    /// Fits into both windows.
    fn write_data(&mut self, key: Key, mut piece: Bytes, ends: bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send_window -= piece.len() as i64;
        self.send_window -= piece.len() as i64;
        let id = stream.id;
        while piece.len() > self.peer_frame {
            let part = piece.split_to(self.peer_frame);
            self.out.data(id, part, false);
        }
        if ends || !piece.is_empty() {
            self.out.data(id, piece, ends);
        }
        if ends {
            self.end_local(key);
        }
    }

    /// Sends what was kept, as far as it goes now.
    pub(super) fn flush_unsent(&mut self, key: Key) {
        loop {
            let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.id != 0) else { return };
            let Some(unsent) = &mut stream.unsent else { return };
            let window = stream.send_window.min(self.send_window).max(0) as usize;
            let Some(piece) = unsent.pieces.front_mut() else { break };
            if window == 0 && !piece.is_empty() {
                return self.wait_for_room(key);
            }
            let part = piece.split_to(window.min(piece.len()));
            if piece.is_empty() {
                unsent.pieces.pop_front();
            }
            let ends = unsent.ends && unsent.pieces.is_empty() && unsent.trailers.is_none();
            if ends {
                stream.unsent = None;
            }
            self.write_data(key, part, ends);
        }
        let Some(unsent) = self.streams.get_mut(key).and_then(|stream| stream.unsent.take()) else { return };
        match unsent.trailers {
            Some(trailers) => {
                let _ = self.send_trailers(key, trailers);
            }
            None if unsent.ends => self.write_data(key, Bytes::new(), true),
            None => {}
        }
    }

    /// The connection has room again: everybody who waits for it is told, in the order in which they came.
    pub(super) fn serve_waiting(&mut self) {
        if self.waiting.is_empty()
            || self.out.len() + self.writing >= self.settings.backlog / 2
            || self.send_window <= 0
        {
            return;
        }
        let waiting: VecDeque<Key> = std::mem::take(&mut self.waiting);
        for key in waiting {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.waits = false;
            }
            self.serve(key);
        }
    }

    /// One stream may have room.
    pub(super) fn serve(&mut self, key: Key) {
        self.flush_unsent(key);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.wake_writer();
        }
    }
}
