//! A request's head: what is read is written, and read back the same.

use bytes::{Bytes, BytesMut};
use isthmus_proxy::http::h1::head::{find_end, may_become_request, parse_request};
use isthmus_proxy::http::h1::write;

pub fn run(bytes: &[u8]) {
    let _ = may_become_request(bytes);
    let Ok(Some(end)) = find_end(bytes, 0) else {
        return;
    };
    let Ok(head) = parse_request(&Bytes::copy_from_slice(&bytes[..end])) else {
        return;
    };
    let request = head.request;
    if request.uri().path_and_query().is_none() || request.uri().authority().is_some() {
        return;
    }
    let mut out = BytesMut::new();
    write::request(request.method(), request.uri(), request.headers(), None, &mut out);
    out.extend_from_slice(b"\r\n");
    let out = out.freeze();
    assert_eq!(find_end(&out, 0).unwrap(), Some(out.len()));
    // HTTP/1.0 allows what 1.1, in which we write, refuses: no Host.
    if let Ok(again) = parse_request(&out) {
        assert_eq!(again.request.headers(), request.headers());
        assert_eq!(again.request.uri(), request.uri());
        assert_eq!(again.framing, head.framing);
    } else {
        assert_eq!(request.version(), http::Version::HTTP_10);
    }
}
