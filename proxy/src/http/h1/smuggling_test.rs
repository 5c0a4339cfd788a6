//! Messages that two readers would end in different places, after the published families of request smuggling: CL.TE, TE.CL,
//! TE.TE, CL.0, bare line ends, folded lines, chunk sizes. Each is refused with its word, and nothing after it is read.

use bytes::Bytes;
use http::Method;

use super::head::{HeadError, find_end, parse_request, parse_response};
use crate::reason::Reason;

fn request(bytes: &str) -> Result<(), HeadError> {
    match find_end(bytes.as_bytes(), 0)? {
        Some(end) => parse_request(&Bytes::copy_from_slice(&bytes.as_bytes()[..end])).map(|_| ()),
        None => super::head::may_become_request(bytes.as_bytes()),
    }
}

fn refused(fields: &str) -> Option<Reason> {
    let head = format!("POST / HTTP/1.1\r\nHost: o\r\n{fields}\r\n\r\n");
    request(&head).err().and_then(|error| error.reason())
}

#[test]
fn two_framings_or_one_that_can_be_misread_are_ambiguous() {
    let variants = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: chunked\r\ncontent-length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5;",
        "Content-Length: 5.0",
        "Content-Length: 1e1",
        "Content-Length: \"5\"",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
        "Content-Length: \u{661}",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: CHUNKED",
        "Transfer-Encoding: chunKed",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked\u{a0}",
        "Transfer-Encoding: chu nked",
        "Transfer-Encoding:",
        "transfer-encoding: cow",
        "TRANSFER-ENCODING: chunked\r\nContent-Length: 1",
    ];
    for fields in variants {
        assert_eq!(refused(fields), Some(Reason::AmbiguousFraming), "{fields:?}");
    }
}

#[test]
fn what_is_no_http_to_the_letter_is_malformed() {
    let variants = [
        "Transfer-Encoding : chunked",
        "Content-Length : 5",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tz",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\n chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: \u{c}chunked",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding: \u{1}chunked",
        "X: a\u{0}b",
        "X: a\u{7f}b",
        "X\u{0}: a",
        ": empty",
        "no-colon",
        "X(: a",
        "X\u{e9}: a",
        "Host: two",
    ];
    for fields in variants.iter().take(variants.len() - 1) {
        assert_eq!(refused(fields), Some(Reason::MalformedRequest), "{fields:?}");
    }
    // More than one Host is refused where the target is read: see http_test.rs.
    assert_eq!(refused(variants[variants.len() - 1]), None);
}

#[test]
fn first_lines_that_can_be_misread_are_malformed() {
    let lines = [
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET / HTTP/1.10",
        "GET / HTTP/01.1",
        "GET /",
        "GET",
        "GET /a b HTTP/1.1",
        "GET /#fragment HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /\u{0} HTTP/1.1",
        "GET path HTTP/1.1",
        "GET * HTTP/1.1",
        "GET example.com:80 HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\r HTTP/1.1",
        "\u{0}GET / HTTP/1.1",
    ];
    for line in lines {
        let result = request(&format!("{line}\r\nHost: o\r\n\r\n"));
        assert_eq!(result.err().and_then(|error| error.reason()), Some(Reason::MalformedRequest), "{line:?}");
    }
    assert!(matches!(request("GET / HTTP/1.1\n\n"), Err(HeadError::Malformed(_))));
    assert!(matches!(request("GET / HTTP/1.1\r\nHost: o\n\r\n"), Err(HeadError::Malformed(_))));
    assert!(matches!(request("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::Malformed(_))), "no Host in HTTP/1.1");
    assert!(request("GET / HTTP/1.0\r\n\r\n").is_ok());
    let old = request("POST / HTTP/1.0\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old.err().and_then(|error| error.reason()), Some(Reason::AmbiguousFraming));
}

#[test]
fn answers_that_can_be_misread_are_not_passed_on() {
    let variants = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        "HTTP/1.1 200 OK\r\nContent-Length: -1",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nX: a\r\n b",
        "HTTP/1.1 200 OK\r\nX : a",
        "HTTP/1.1 20 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1  200 OK",
        "\r\nHTTP/1.1 200 OK",
        "ICY 200 OK",
    ];
    for head in variants {
        let bytes = Bytes::from(format!("{head}\r\n\r\n"));
        assert!(parse_response(&bytes, &Method::GET).is_err(), "{head:?}");
    }
    let bare = "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n";
    assert!(find_end(bare.as_bytes(), 0).is_err());
}
