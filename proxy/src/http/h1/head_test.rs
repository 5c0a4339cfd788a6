//! Heads: limits, keep-alive, framing, and that what was written is read back unchanged.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use proptest::prelude::*;

use super::framing::Framing;
use super::head::{HeadError, find_end, may_become_request, parse_request, parse_response};
use super::{MAX_FIELDS, write};

fn parse(head: &str) -> super::RequestHead {
    parse_request(&Bytes::copy_from_slice(head.as_bytes())).unwrap()
}

#[test]
fn a_head_gives_its_parts_and_whether_more_may_follow() {
    let head = parse("POST /a?b HTTP/1.1\r\nHost: o\r\nContent-Length: 12\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
    assert_eq!((head.request.method(), head.request.uri().to_string()), (&Method::POST, "/a?b".into()));
    assert_eq!((head.framing, head.keep_alive), (Framing::Length(12), true));
    let two: Vec<_> = head.request.headers().get_all("x-two").iter().collect();
    assert_eq!(two, ["1", "2"]);
    let keeps = [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ];
    for (version, field, keep) in keeps {
        assert_eq!(
            parse(&format!("GET / HTTP/{version}\r\nHost: o\r\n{field}\r\n")).keep_alive,
            keep,
            "{version} {field}"
        );
    }
    assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: o\r\n\r\n").request.uri().path(), "*");
    let absolute = parse("GET http://a:8080/b HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(absolute.request.uri().authority().unwrap(), "a:8080");
}

#[test]
fn an_answers_end_follows_from_what_was_asked() {
    let framing = |head: &str, asked: &Method| {
        parse_response(&Bytes::from(format!("{head}\r\n\r\n")), asked)
            .map(|head| (head.framing, head.keep_alive))
            .unwrap()
    };
    let get = Method::GET;
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3", &get), (Framing::Length(3), true));
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3", &Method::HEAD), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 3", &get), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 204 No Content", &get), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", &get), (Framing::Chunked, true));
    assert_eq!(framing("HTTP/1.1 200 OK", &get), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.0 200 OK\r\nContent-Length: 0", &get), (Framing::None, false));
    assert_eq!(framing("HTTP/1.1 200", &get), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close", &get), (Framing::Length(1), false));
}

#[test]
fn sixty_four_kib_of_fields_pass_and_more_fields_than_the_bound_do_not() {
    let big = format!("GET / HTTP/1.1\r\nHost: o\r\nX: {}\r\n\r\n", "v".repeat(64 * 1024));
    assert_eq!(parse(&big).request.headers()["x"].len(), 64 * 1024);
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: o\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(parse(&many(MAX_FIELDS - 1)).request.headers().len(), MAX_FIELDS);
    let more = Bytes::from(many(MAX_FIELDS));
    assert!(matches!(parse_request(&more), Err(HeadError::TooLarge)));
}

#[test]
fn names_go_out_in_title_case() {
    let mut out = BytesMut::new();
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("a"));
    headers.insert("etag", HeaderValue::from_static("b"));
    write::fields(&headers, None, &mut out);
    assert_eq!(&out[..], b"X-Forwarded-For: a\r\nEtag: b\r\n");
}

/// Names that mean nothing to framing.
fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}", "([!-~]([ -~]{0,30}[!-~])?)?"), 0..20)
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect()
}

proptest! {
    #[test]
    fn a_request_survives_being_written_and_read(
        method in "[A-Z]{1,12}", path in "/[a-zA-Z0-9._~!$&'()*+,;=:@/-]{0,40}(\\?[a-z0-9=&/?]{0,20})?", fields in fields(),
    ) {
        prop_assume!(method != "CONNECT");
        let mut headers = map(&fields);
        headers.insert("host", HeaderValue::from_static("o"));
        let mut out = BytesMut::new();
        write::request(&Method::from_bytes(method.as_bytes()).unwrap(), &path.parse().unwrap(), &headers, None, &mut out);
        out.extend_from_slice(b"\r\n");
        let bytes = out.freeze();
        prop_assert_eq!(find_end(&bytes, 0).unwrap(), Some(bytes.len()));
        let read = parse_request(&bytes).unwrap();
        prop_assert_eq!(read.request.method().as_str(), method);
        prop_assert_eq!(read.request.uri().to_string(), path);
        prop_assert_eq!(read.request.headers(), &headers);
        prop_assert_eq!(read.framing, Framing::None);
    }

    #[test]
    fn an_answer_survives_being_written_and_read(status in 200u16..600, length in 1u64..1 << 59, fields in fields()) {
        let mut headers = map(&fields);
        headers.insert("content-length", HeaderValue::from(length));
        let mut out = BytesMut::new();
        write::response(StatusCode::from_u16(status).unwrap(), &headers, None, &mut out);
        out.extend_from_slice(b"\r\n");
        let read = parse_response(&out.freeze(), &Method::GET).unwrap();
        prop_assert_eq!(read.response.status().as_u16(), status);
        prop_assert_eq!(read.response.headers(), &headers);
        prop_assert_eq!(read.response.version(), Version::HTTP_11);
        prop_assert!(read.keep_alive);
    }

    #[test]
    fn the_end_is_found_wherever_the_bytes_were_cut(fields in fields(), cut in 0usize..400, rest in "[ -~\r\n]{0,20}") {
        let mut out = BytesMut::new();
        write::request(&Method::GET, &"/".parse().unwrap(), &map(&fields), None, &mut out);
        out.extend_from_slice(b"\r\n");
        let end = out.len();
        out.extend_from_slice(rest.as_bytes());
        let cut = cut.min(end - 1);
        prop_assert_eq!(find_end(&out[..cut], 0).unwrap(), None);
        prop_assert!(may_become_request(&out[..cut]).is_ok());
        prop_assert_eq!(find_end(&out, cut.saturating_sub(1)).unwrap(), Some(end));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = find_end(&bytes, 0);
        let _ = may_become_request(&bytes);
        let _ = parse_request(&bytes);
        let _ = parse_response(&bytes, &Method::GET);
    }
}
