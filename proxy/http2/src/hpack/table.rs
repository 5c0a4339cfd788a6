//! Fields, and the static table (RFC 7541, Appendix A).

use std::sync::LazyLock;

use bytes::Bytes;
use foldhash::HashMap;
use http::{HeaderName, HeaderValue};

use super::ENTRY;

/// Fields that begin with a colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

impl Pseudo {
    pub const ALL: [Pseudo; 6] =
        [Pseudo::Method, Pseudo::Scheme, Pseudo::Authority, Pseudo::Path, Pseudo::Protocol, Pseudo::Status];

    pub const fn name(self) -> &'static str {
        match self {
            Pseudo::Method => ":method",
            Pseudo::Scheme => ":scheme",
            Pseudo::Authority => ":authority",
            Pseudo::Path => ":path",
            Pseudo::Protocol => ":protocol",
            Pseudo::Status => ":status",
        }
    }
}

/// One field of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Pseudo(Pseudo, Bytes),
    Header(HeaderName, HeaderValue),
    /// Bytes that HTTP/2 lets nobody send. It has a place in the table all the same.
    Malformed(usize),
}

impl Field {
    /// From what was on the wire.
    pub fn new(name: &[u8], value: &[u8]) -> Field {
        let malformed = Field::Malformed(name.len() + value.len() + ENTRY);
        if name.first() == Some(&b':') {
            let known = Pseudo::ALL.into_iter().find(|pseudo| pseudo.name().as_bytes() == name);
            return known.map_or(malformed, |pseudo| Field::Pseudo(pseudo, Bytes::copy_from_slice(value)));
        }
        // Upper case is refused there (RFC 9113 §8.2.1).
        match (HeaderName::from_lowercase(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) => Field::Header(name, value),
            _ => malformed,
        }
    }

    /// The same name with another value.
    pub fn with_value(&self, value: &[u8]) -> Field {
        match self {
            Field::Pseudo(pseudo, _) => Field::Pseudo(*pseudo, Bytes::copy_from_slice(value)),
            Field::Header(name, _) => match HeaderValue::from_bytes(value) {
                Ok(value) => Field::Header(name.clone(), value),
                Err(_) => Field::Malformed(name.as_str().len() + value.len() + ENTRY),
            },
            Field::Malformed(size) => Field::Malformed(size + value.len()),
        }
    }

    /// As the table counts it (§4.1).
    pub fn size(&self) -> usize {
        match self {
            Field::Pseudo(pseudo, value) => pseudo.name().len() + value.len() + ENTRY,
            Field::Header(name, value) => name.as_str().len() + value.len() + ENTRY,
            Field::Malformed(size) => *size,
        }
    }
}

/// Entries 1 to 61.
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(|| {
    let field = |(name, value): &(&'static str, &'static str)| match Field::new(name.as_bytes(), value.as_bytes()) {
        Field::Header(name, _) => Field::Header(name, HeaderValue::from_static(value)),
        Field::Pseudo(pseudo, _) => Field::Pseudo(pseudo, Bytes::from_static(value.as_bytes())),
        malformed => malformed,
    };
    STATIC.iter().map(field).collect()
});

static NAMES: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    // The first of several with the same name.
    STATIC.iter().enumerate().rev().map(|(place, (name, _))| (*name, place + 1)).collect()
});

/// Entry `index` of the static table; one is the first.
pub fn static_field(index: usize) -> Option<&'static Field> {
    FIELDS.get(index.checked_sub(1)?)
}

/// The first static entry with this name.
pub fn static_name(name: &str) -> Option<usize> {
    NAMES.get(name).copied()
}

/// The static entry that is this pseudo-field.
pub fn static_pair(pseudo: Pseudo, value: &[u8]) -> Option<usize> {
    Some(match (pseudo, value) {
        (Pseudo::Method, b"GET") => 2,
        (Pseudo::Method, b"POST") => 3,
        (Pseudo::Path, b"/") => 4,
        (Pseudo::Scheme, b"http") => 6,
        (Pseudo::Scheme, b"https") => 7,
        (Pseudo::Status, b"200") => 8,
        (Pseudo::Status, b"204") => 9,
        (Pseudo::Status, b"304") => 11,
        (Pseudo::Status, b"404") => 13,
        _ => return None,
    })
}
