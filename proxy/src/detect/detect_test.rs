//! The parsers of first bytes, over every fragmentation.

use proptest::prelude::*;

use super::client_hello::{self, Parsed};
use super::hello_bytes::{client_hello, client_hello_message, in_records, server_hello, server_hello_message};
use super::{
    HTTP2_PREFACE, LONGEST_PREFIX, POSTGRES_GSS_REQUEST, POSTGRES_SSL_REQUEST, Protocol, Verdict, WireVersion,
    classify, server_hello,
};

fn verdict(bytes: &[u8]) -> Option<Protocol> {
    match classify(bytes) {
        Verdict::Known(protocol) => Some(protocol),
        Verdict::More => None,
    }
}

#[test]
fn first_bytes_tell_what_is_spoken() {
    let cases: &[(&[u8], Protocol)] = &[
        (b"GET / HTTP/1.1\r\n", Protocol::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Protocol::Http1),
        (b"GET http://a/ HTTP/1.1\r\n", Protocol::Http1),
        (b"CONNECT a:443 HTTP/1.1\r\n", Protocol::Http1),
        (HTTP2_PREFACE, Protocol::Http2),
        (POSTGRES_SSL_REQUEST, Protocol::PostgresSsl),
        (b"GET key\r\n", Protocol::Opaque),
        (b"get key\r\n", Protocol::Opaque),
        (b"PING\r\n", Protocol::Opaque),
        (b"*1\r\n$4\r\nPING\r\n", Protocol::Opaque),
        (b"\x16\x03\x01\x00\x00\x01", Protocol::Opaque),
        (b"\x15\x03\x01\x00\x02\x02\x28", Protocol::Opaque),
        (POSTGRES_GSS_REQUEST, Protocol::PostgresGss),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x31", Protocol::Opaque),
        // TDS prelogin, MQTT, AMQP, Kafka, MongoDB, memcached, a Redis array, LDAP, SOCKS: nothing of HTTP or TLS.
        (b"\x12\x01\x00\x2f\x00\x00\x01\x00", Protocol::Opaque),
        (b"\x10\x1a\x00\x04MQTT", Protocol::Opaque),
        (b"AMQP\x00\x00\x09\x01", Protocol::Opaque),
        (b"\x00\x00\x00\x23\x00\x12\x00\x04", Protocol::Opaque),
        (b"\x3a\x00\x00\x00\x01\x00\x00\x00", Protocol::Opaque),
        (b"get k1 k2\r\n", Protocol::Opaque),
        (b"\x30\x0c\x02\x01\x01\x60", Protocol::Opaque),
        (b"\x05\x01\x00", Protocol::Opaque),
        (b"GET / /\x00\x01", Protocol::Http1),
        (b"POST \x00\x00", Protocol::Opaque),
        (b"PUT 0 0 10 5\r\n", Protocol::Opaque),
    ];
    for (bytes, protocol) in cases {
        assert_eq!(verdict(bytes), Some(*protocol), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(verdict(&client_hello(&[0x0304], 0x0303, None)), Some(Protocol::Tls));
    assert_eq!(verdict(b""), None);
}

#[test]
fn a_hello_says_its_name_its_protocols_and_its_newest_version() {
    let bytes = client_hello(&[0x0a0a, 0x0303, 0x0304, 0x0302], 0x0303, Some("Orders.Shop"));
    let Parsed::Hello(hello, length) = client_hello::parse(&bytes) else { panic!("it is a hello") };
    assert_eq!(hello.server_name.as_deref(), Some("orders.shop"));
    assert_eq!(hello.alpn, ["h2"]);
    assert_eq!((hello.newest, length), (WireVersion::TLS1_3, bytes.len()));
    let unknown = client_hello(&[0x0a0a, 0x7f1c], 0x0303, None);
    assert!(matches!(client_hello::parse(&unknown), Parsed::Hello(hello, _) if hello.newest < WireVersion::TLS1_0));
}

#[test]
fn a_server_hello_says_what_was_chosen_and_whether_it_was_a_retry() {
    for (version, retry) in [(0x0304, false), (0x0304, true), (0x0303, false), (0x0302, false), (0x0300, false)] {
        let Parsed::Hello(hello, _) = server_hello::parse(&server_hello(version, retry)) else {
            panic!("{version:#x}")
        };
        assert_eq!((hello.version, hello.retry), (WireVersion(version), retry));
    }
    assert!(matches!(server_hello::parse(&[21, 3, 3, 0, 2, 2, 70]), Parsed::Alert(7)));
    assert!(matches!(server_hello::parse(b"HTTP/1.1 200"), Parsed::Invalid(_)));
}

#[test]
fn change_cipher_spec_before_a_second_hello_is_passed_over() {
    let mut bytes = vec![20, 3, 3, 0, 1, 1];
    bytes.extend(client_hello(&[0x0304], 0x0303, None));
    assert!(matches!(client_hello::parse(&bytes), Parsed::Hello(_, length) if length == bytes.len()));
}

proptest! {
    #[test]
    fn a_longer_prefix_never_changes_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..40), start in 0usize..6) {
        let known: [&[u8]; 6] = [b"", b"GET /", HTTP2_PREFACE, POSTGRES_SSL_REQUEST, b"\x16\x03\x01\x02\x00\x01", b"POST"];
        let whole = [known[start], &bytes].concat();
        let mut first = None;
        for end in 0..=whole.len() {
            let now = verdict(&whole[..end]);
            if let Some(before) = first {
                prop_assert_eq!(now, Some(before));
            }
            first = first.or(now);
            prop_assert!(end < LONGEST_PREFIX || now.is_some());
        }
    }

    #[test]
    fn a_hello_reads_the_same_however_it_is_cut(size in 1usize..200, cut in any::<prop::sample::Index>(), name in "[a-z]{1,40}") {
        let message = client_hello_message(&[0x0304], 0x0303, Some(&name));
        let bytes = in_records(&message, size);
        let end = cut.index(bytes.len());
        prop_assert_eq!(client_hello::parse(&bytes[..end]), Parsed::Incomplete);
        match client_hello::parse(&bytes) {
            Parsed::Hello(hello, length) => {
                prop_assert_eq!(hello.server_name, Some(name));
                prop_assert_eq!(length, bytes.len());
            }
            other => prop_assert!(false, "{:?}", other),
        }
        let answer = in_records(&server_hello_message(0x0304, false), size);
        prop_assert!(matches!(server_hello::parse(&answer), Parsed::Hello(_, _)));
    }

    /// What the fuzz target `hello` asserts, on hellos that were damaged in one place.
    #[test]
    fn a_damaged_hello_is_read_the_same_by_every_longer_read(
        size in 1usize..300,
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        more in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let messages = [client_hello_message(&[0x0304, 0x0303], 0x0303, Some("orders")), server_hello_message(0x0304, false)];
        for message in messages {
            let mut bytes = in_records(&message, size);
            let at = place.index(bytes.len());
            bytes[at] = byte;
            bytes.extend(&more);
            if let Parsed::Hello(hello, length) = client_hello::parse(&bytes) {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(client_hello::parse(&bytes[..length - 1]), Parsed::Incomplete);
                prop_assert_eq!(client_hello::parse(&bytes[..length]), Parsed::Hello(hello, length));
            }
            if let Parsed::Hello(hello, length) = server_hello::parse(&bytes) {
                prop_assert!(length <= bytes.len());
                prop_assert_eq!(server_hello::parse(&bytes[..length]), Parsed::Hello(hello, length));
            }
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = client_hello::parse(&bytes);
        let _ = server_hello::parse(&bytes);
        let _ = classify(&bytes);
        let record = in_records(&bytes, 50);
        let _ = client_hello::parse(&record);
        let _ = server_hello::parse(&record);
    }
}
