//! A response's head: what is read is written, and read back the same.

use bytes::{Bytes, BytesMut};
use http::Method;
use isthmus_proxy::http::h1::head::{find_end, parse_response};
use isthmus_proxy::http::h1::write;

pub fn run(bytes: &[u8]) {
    let Ok(Some(end)) = find_end(bytes, 0) else {
        return;
    };
    let head = Bytes::copy_from_slice(&bytes[..end]);
    let _ = parse_response(&head, &Method::HEAD);
    let Ok(read) = parse_response(&head, &Method::GET) else {
        return;
    };
    let mut out = BytesMut::new();
    write::response(read.response.status(), read.response.headers(), None, &mut out);
    out.extend_from_slice(b"\r\n");
    let again = parse_response(&out.freeze(), &Method::GET).expect("what we write can be read");
    assert_eq!(again.response.headers(), read.response.headers());
    assert_eq!(again.framing, read.framing);
}
