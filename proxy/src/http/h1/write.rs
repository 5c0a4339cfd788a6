//! Heads on the wire. Names go out in Title-Case: HTTP/1 apps that compare names by case expect the RFCs' spelling,
//! or their sender's, where the service says so.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::Names;

/// A request's first line and fields, without the empty line that ends them.
pub fn request(method: &Method, uri: &Uri, headers: &HeaderMap, names: Option<&Names>, out: &mut BytesMut) {
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    out.reserve(method.as_str().len() + target.len() + 12 + size(headers));
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
        for part in [scheme, "://", authority.as_str()] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields(headers, names, out);
}

/// A response's first line and fields, without the empty line that ends them. An HTTP/1.0 client is answered in HTTP/1.1
/// (RFC 9112 §2.3): the version says what we can, framing and `Connection` follow what the client can.
pub fn response(status: StatusCode, headers: &HeaderMap, names: Option<&Names>, out: &mut BytesMut) {
    out.reserve(40 + size(headers));
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(headers, names, out);
}

/// The fields that ask for, or agree to, another protocol.
pub fn upgrade(protocol: &str, out: &mut BytesMut) {
    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
    out.extend_from_slice(protocol.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Fields, each in its own line.
pub fn fields(headers: &HeaderMap, names: Option<&Names>, out: &mut BytesMut) {
    for (name, value) in headers {
        match names.and_then(|names| names.spelling(name.as_str())) {
            Some(spelled) => out.extend_from_slice(spelled),
            None => title_case(name.as_str(), out),
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn title_case(name: &str, out: &mut BytesMut) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut first = true;
    for byte in &mut out[start..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

/// Whether [`title_case`] spells the name just so.
pub fn is_title_case(name: &[u8]) -> bool {
    let mut first = true;
    name.iter().all(|byte| {
        let fits = if first { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() };
        first = *byte == b'-';
        fits
    })
}

/// What [`fields`] writes, or a little more: one allocation for the whole head.
fn size(headers: &HeaderMap) -> usize {
    // The framing's own lines, and the end.
    const REST: usize = 64;
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + REST
}

/// Whether the receiver understands chunks.
pub fn knows_chunks(version: Version) -> bool {
    version >= Version::HTTP_11
}
