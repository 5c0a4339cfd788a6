//! Heads and ends as they come: which message a block of fields is, by who sent it and what came before.

use h2::Reason;
use http::{StatusCode, header::HeaderMap};

use super::frame::RST_STREAM;
use super::head::{Fields, Malformed};
use super::state::{Role, State};
use super::stream::{Key, Stream};

/// Interim answers of one request that are passed on. An app that sends more of them talks to itself.
pub const MAX_INTERIM: usize = 16;
/// Malformed messages of one connection. Sidecars send none: what apps send is checked before.
const MAX_FAULTS: usize = 1_024;

impl State {
    /// A whole block. It is always decoded: the next one depends on it.
    pub(super) fn headers(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let mut fields = Fields::new(self.settings.max_header_bytes as usize);
        self.decoder.decode(block, |field| fields.add(field)).map_err(|_| Reason::COMPRESSION_ERROR)?;
        let Some(key) = self.streams.key_of(id) else {
            return match self.role {
                Role::Server if id % 2 == 1 && id > self.last_id => self.request(id, ends, fields),
                // Of a stream that has ended for us.
                _ => self.was(id),
            };
        };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        let understood = if stream.remote_ended {
            return self.offence(key, Reason::STREAM_CLOSED);
        } else if stream.head_came {
            trailers(stream, ends, fields)
        } else {
            response(stream, ends, fields)
        };
        if understood.is_err() {
            return self.offence(key, Reason::PROTOCOL_ERROR);
        }
        if ends { self.end_remote(key) } else { Ok(()) }
    }

    fn request(&mut self, id: u32, ends: bool, fields: Fields) -> Result<(), Reason> {
        self.last_id = id;
        if self.goaway.is_some_and(|last| id > last) {
            // It was told that it would not be looked at.
            return Ok(());
        }
        if self.open >= self.settings.max_streams as usize {
            self.refuse(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let (too_large, length) = (fields.too_large, fields.length);
        let request = fields.into_request();
        let contradicts = ends && length.is_some_and(|length| length > 0);
        let Some(request) = request.ok().filter(|_| !contradicts && !too_large) else {
            if too_large {
                // An app's own doing, which shall not end the others' connection.
                self.refuse(id, Reason::ENHANCE_YOUR_CALM);
                return Ok(());
            }
            self.refuse(id, Reason::PROTOCOL_ERROR);
            return self.fault();
        };
        self.open += 1;
        let stream = Stream {
            id,
            // The queue's, which goes over to whoever takes it.
            handles: 1,
            counted: true,
            remote_ended: ends,
            head_came: true,
            expected: length,
            send_window: self.peer_window,
            recv_window: self.own_window,
            ..Stream::default()
        };
        let key = self.streams.insert(stream);
        self.accepted.push_back((key, request));
        Ok(())
    }

    /// A stream that never begins.
    fn refuse(&mut self, id: u32, reason: Reason) {
        let code = u32::from(reason).to_be_bytes();
        self.out.frame(RST_STREAM, 0, id, &code);
        self.replies += super::frame::HEAD + code.len();
    }

    /// The peer breaks a rule on one stream, which ends. It ends many that way so that their work goes on here while they
    /// count no more (CVE-2025-8671): not for long.
    pub(super) fn offence(&mut self, key: Key, reason: Reason) -> Result<(), Reason> {
        self.reset(key, reason);
        self.fault()
    }

    fn fault(&mut self) -> Result<(), Reason> {
        self.faults += 1;
        if self.faults > MAX_FAULTS { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// END_STREAM came.
    pub(super) fn end_remote(&mut self, key: Key) -> Result<(), Reason> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        if stream.failed.is_some() {
            return Ok(());
        }
        if !stream.head_came || stream.expected.is_some_and(|left| left > 0) {
            return self.offence(key, Reason::PROTOCOL_ERROR);
        }
        stream.remote_ended = true;
        stream.wake_reader();
        self.settle(key);
        Ok(())
    }
}

fn response(stream: &mut Stream, ends: bool, fields: Fields) -> Result<(), Malformed> {
    let (too_large, length) = (fields.too_large, fields.length);
    let response = fields.into_response()?;
    if too_large || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Malformed);
    }
    if response.status().is_informational() {
        if ends {
            return Err(Malformed);
        }
        // More than these are passed on to nobody.
        if stream.interim.len() < MAX_INTERIM {
            stream.interim.push_back(response);
        }
    } else {
        let bodiless = stream.bodiless || response.status() == StatusCode::NOT_MODIFIED;
        stream.expected = length.filter(|_| !bodiless);
        stream.head_came = true;
        stream.head = Some(response);
    }
    stream.wake_reader();
    Ok(())
}

fn trailers(stream: &mut Stream, ends: bool, fields: Fields) -> Result<(), Malformed> {
    if !ends || fields.too_large {
        return Err(Malformed);
    }
    let trailers: HeaderMap = fields.into_trailers()?;
    if !stream.deaf {
        stream.trailers = Some(Box::new(trailers));
    }
    Ok(())
}
