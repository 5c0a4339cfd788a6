//! Deltas as bytes. A change that thousands of proxies use is one resource for all of them: it is written once, for as long
//! as it is among the last ones that were sent.

use super::server::Message;
use crate::index::Told;
use isthmus_proto::discovery::v1 as wire;
use prost::Message as _;
use prost::bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(test)]
#[path = "encoded_test.rs"]
mod encoded_test;

/// Resources of one commit that many use, or of a few that came together.
const REMEMBERED: usize = 4;
/// A larger one is written for each proxy: what is remembered stays until others take its place.
const LARGEST: usize = 1 << 20;
/// Field 2 with a length before it: `ControlMessage.delta`, and `Delta.upserts`.
const FIELD: u8 = (2 << 3) | 2;

/// What was written last.
#[derive(Debug, Default)]
pub struct Encoded(Mutex<VecDeque<(Arc<Told>, Bytes)>>);

impl Encoded {
    /// The bytes of a resource.
    pub(super) fn of(&self, told: &Arc<Told>) -> Bytes {
        let known = |all: &VecDeque<(Arc<Told>, Bytes)>| {
            all.iter().find(|(known, _)| Arc::ptr_eq(known, told)).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return bytes;
        }
        let bytes = Bytes::from(told.bytes());
        if bytes.len() <= LARGEST {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known(&all).is_none() {
                all.truncate(REMEMBERED - 1);
                all.push_front((told.clone(), bytes.clone()));
            }
        }
        bytes
    }
}

/// A message that is no delta, or a small one.
pub(super) fn message(message: wire::control_message::Message) -> Message {
    wire::ControlMessage { message: Some(message) }.encode_to_vec().into()
}

/// A delta with these resources: `rest` is all of it but them. The fields of a message may come in any order.
pub(super) fn delta(rest: &wire::Delta, upserts: &[Bytes]) -> Message {
    let of_field = |len: usize| 1 + prost::length_delimiter_len(len) + len;
    let len = rest.encoded_len() + upserts.iter().map(|bytes| of_field(bytes.len())).sum::<usize>();
    let mut all: Vec<u8> = Vec::with_capacity(of_field(len));
    put_head(&mut all, len);
    for bytes in upserts {
        put_head(&mut all, bytes.len());
        all.extend_from_slice(bytes);
    }
    // It takes whatever is written: it is no fixed memory.
    let _ = rest.encode(&mut all);
    all.into()
}

fn put_head(to: &mut Vec<u8>, len: usize) {
    to.push(FIELD);
    let _ = prost::encode_length_delimiter(len, to);
}
