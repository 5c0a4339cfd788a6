//! Spellings: read from a head, carried as one header, written again; a peer's list can do nothing else.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use super::head::parse_request;
use super::names::Names;
use super::write;
use crate::http::internal::NAMES;
use crate::reason::Reason;

fn carried(list: &str) -> HeaderMap {
    HeaderMap::from_iter([(NAMES, HeaderValue::from_str(list).unwrap())])
}

fn written(headers: &HeaderMap, names: &Names) -> String {
    let mut out = BytesMut::new();
    write::fields(headers, Some(names), &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn spellings_survive_the_way_over_http2() {
    let raw = Bytes::from_static(
        b"GET /a:b HTTP/1.1\r\nHost: o\r\nx-lower: a:b\r\nX-UPPER: 2\r\nx-MiXed: 3\r\nUser-Agent: c\r\n\r\n",
    );
    let headers = parse_request(&raw).unwrap().request.into_parts().0.headers;
    let value = Names::of(&raw).into_value().unwrap();
    assert_eq!(value, "x-lower,X-UPPER,x-MiXed", "what is in Title-Case need not travel");
    let mut message = headers.clone();
    message.insert(NAMES, value);
    let names = Names::take(&mut message).unwrap();
    assert_eq!(message, headers, "the list stays between sidecars");
    assert_eq!(written(&headers, &names), "Host: o\r\nx-lower: a:b\r\nX-UPPER: 2\r\nx-MiXed: 3\r\nUser-Agent: c\r\n");
    assert!(Names::of(b"GET / HTTP/1.1\r\nHost: o\r\n\r\n").into_value().is_none());
}

#[test]
fn a_list_that_is_none_is_refused_and_gone() {
    let long = "x".repeat(5000);
    for list in ["", "a,,b", "a b", "a:b", "a,", long.as_str(), &"a,".repeat(300)] {
        let mut headers = carried(list);
        assert_eq!(Names::take(&mut headers).err(), Some(Reason::BadInternalHeader), "{list}");
        assert!(headers.is_empty());
    }
    let mut twice = carried("x-a");
    twice.append(NAMES, HeaderValue::from_static("x-A"));
    assert_eq!(Names::take(&mut twice).err(), Some(Reason::BadInternalHeader));
}

#[test]
fn a_list_changes_no_field_that_it_does_not_spell() {
    let names = Names::take(&mut carried("x-other,HOSTS,accept")).unwrap();
    let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("o"))]);
    assert_eq!(written(&headers, &names), "Host: o\r\n");
}

#[test]
fn names_beyond_the_bound_are_in_title_case() {
    let fields: String = (0..100).map(|n| format!("x-{n:0100}: 1\r\n")).collect();
    let value = Names::of(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).into_value().unwrap();
    assert!((3900..=4096).contains(&value.len()), "{}", value.len());
    assert!(Names::take(&mut HeaderMap::from_iter([(NAMES, value)])).is_ok());
}
