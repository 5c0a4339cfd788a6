//! How a sender spelled its header names, where a service asks that HTTP/1 apps see just that (`headerNames: Preserve`).
//! HTTP/2 knows lower case only, so between sidecars the spellings travel in [`NAMES`]. They decide spelling and nothing
//! else: whatever a peer lists, no field is added, lost or renamed by it.
//!
//! As an extension of a request's head it also asks that the answer's spellings be kept.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{MAX_FIELDS, write};
use crate::http::internal::NAMES;
use crate::reason::Reason;

/// Beside the largest head, this still fits into what a mesh connection takes. Names beyond it go out in Title-Case.
const MAX_NAMES: usize = 4 * 1024;

/// Spellings that are not Title-Case, separated by commas, which no name can hold.
#[derive(Debug, Clone)]
pub struct Names(HeaderValue);

impl Default for Names {
    fn default() -> Self {
        Names(HeaderValue::from_static(""))
    }
}

impl Names {
    /// Of a head that was parsed already.
    pub fn of(head: &[u8]) -> Names {
        let mut list = BytesMut::new();
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let name = &line[..colon];
            if write::is_title_case(name) || list.len() + name.len() + 1 > MAX_NAMES {
                continue;
            }
            if !list.is_empty() {
                list.extend_from_slice(b",");
            }
            list.extend_from_slice(name);
        }
        HeaderValue::from_maybe_shared(list.freeze()).map(Names).unwrap_or_default()
    }

    /// Takes the list out of a mesh message. Repeated, too long or not a list of names is a refusal.
    pub fn take(headers: &mut HeaderMap) -> Result<Names, Reason> {
        let mut values = headers.get_all(NAMES).iter();
        let Some(value) = values.next() else { return Ok(Names::default()) };
        let list = value.as_bytes();
        let mut names = list.split(|byte| *byte == b',');
        let valid = list.len() <= MAX_NAMES
            && values.next().is_none()
            && names.clone().count() <= MAX_FIELDS
            && names.all(|name| HeaderName::from_bytes(name).is_ok());
        match headers.remove(NAMES) {
            Some(value) if valid => Ok(Names(value)),
            _ => Err(Reason::BadInternalHeader),
        }
    }

    /// For the other sidecar; `None`: all are in Title-Case.
    pub fn into_value(self) -> Option<HeaderValue> {
        (!self.0.is_empty()).then_some(self.0)
    }

    /// The first spelling of the name.
    pub fn spelling(&self, name: &str) -> Option<&[u8]> {
        self.0.as_bytes().split(|byte| *byte == b',').find(|spelled| spelled.eq_ignore_ascii_case(name.as_bytes()))
    }
}
