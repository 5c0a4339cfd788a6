//! Headers, targets, internal headers.

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use proptest::prelude::*;

use super::headers::{is_internal, sanitize, sanitize_trailers};
use super::internal::{Elapsed, parse_port, take_port};
use super::respond::is_grpc;
use super::target::{host, into_http1, into_http2, keep_one_host};
use crate::reason::Reason;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    pairs.iter().map(pair).collect()
}

#[test]
fn what_must_not_pass_is_removed_and_the_rest_stays() {
    let mut map = headers(&[
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("te", "trailers, gzip;q=0.5"),
        ("upgrade", "websocket"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("isthmus-port", "1"),
        ("isthmus_port", "1"),
        ("x_forwarded-client_cert", "1"),
        ("content-length", "3"),
        ("isthmusx", "kept"),
    ]);
    sanitize(&mut map);
    let mut left: Vec<_> = map.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(left, ["content-length=3", "isthmusx=kept", "te=trailers"]);
}

#[test]
fn connection_cannot_name_away_what_a_message_means() {
    let mut map = headers(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "3")]);
    sanitize(&mut map);
    assert!(map.contains_key("host") && map.contains_key("content-length"));
}

#[test]
fn trailers_lose_framing_and_identity() {
    let mut map =
        headers(&[("x-sum", "1"), ("isthmus-denied", "1"), ("content-length", "1"), ("host", "a"), ("te", "x")]);
    sanitize_trailers(&mut map);
    assert_eq!(map.len(), 1);
}

#[test]
fn the_host_is_read_in_one_way_or_refused() {
    let request = |target: &str, hosts: &[&str]| {
        let builder = Request::get(target);
        hosts.iter().fold(builder, |builder, host| builder.header("host", *host)).body(()).unwrap()
    };
    let authority = |mut request: Request<()>| {
        into_http2(&mut request, "10.0.0.1:80".parse().unwrap())
            .map(|()| request.uri().authority().unwrap().to_string())
    };
    assert_eq!(authority(request("/a", &["orders:80"])), Ok("orders:80".into()));
    assert_eq!(authority(request("/a", &[])), Ok("10.0.0.1:80".into()));
    assert_eq!(authority(request("http://absolute/a", &["other"])), Ok("absolute".into()));
    assert_eq!(authority(request("/a", &["a", "b"])), Err(Reason::MalformedRequest));
    assert_eq!(authority(request("/a", &["u@a"])), Err(Reason::MalformedRequest));
    assert_eq!(authority(request("/a", &["a b"])), Err(Reason::MalformedRequest));
    let mut back = Request::get("http://orders:80/a?b").body(()).unwrap();
    into_http1(&mut back, false).unwrap();
    assert_eq!(
        (back.uri().to_string(), &back.headers()["host"]),
        ("/a?b".into(), &"orders:80".parse::<HeaderValue>().unwrap())
    );
    assert_eq!(host(&request("/", &["[::1]:80"])), Some("[::1]"));
}

/// What came as HTTP/2 may bear `:authority` and `Host`; who reads the other one must not read another name.
#[test]
fn authority_and_host_name_the_same_or_are_refused() {
    let kept = |target: &str, hosts: &[&str]| {
        let builder = hosts.iter().fold(Request::get(target), |builder, host| builder.header("host", *host));
        let mut request = builder.body(()).unwrap();
        keep_one_host(&mut request).map(|()| (host(&request).map(str::to_owned), request.headers().len()))
    };
    let one = |name: &str, headers| Ok((Some(name.to_owned()), headers));
    assert_eq!(kept("http://a:80/", &[]), one("a", 0));
    assert_eq!(kept("http://a:80/", &["A:80"]), one("a", 0));
    assert_eq!(kept("http://a/", &["a", "a"]), one("a", 0));
    assert_eq!(kept("/", &["a:80"]), one("a", 1));
    assert_eq!(kept("/", &[]), Ok((None, 0)));
    for (target, hosts) in [
        ("http://a/", &["b"][..]),
        ("http://a/", &["a", "b"]),
        ("http://a/", &[""]),
        ("/", &["a", "b"]),
        ("http://u@a/", &[]),
    ] {
        assert_eq!(kept(target, hosts), Err(Reason::MalformedRequest), "{target} {hosts:?}");
    }
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (value, is) in [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)] {
        assert_eq!(is_grpc(&headers(&[("content-type", value)])), is, "{value}");
    }
}

proptest! {
    #[test]
    fn a_port_is_read_only_as_it_is_written(port in 1u16.., noise in "[ +0-9a-z]{0,7}") {
        prop_assert_eq!(parse_port(port.to_string().as_bytes()), Some(port));
        if let Some(read) = parse_port(noise.as_bytes()) {
            prop_assert_eq!(read.to_string(), noise);
        }
    }

    #[test]
    fn an_elapsed_time_survives_and_nonsense_is_no_measurement(total in 0u64..1_000_000_000, app in 0u64..1_000_000_000, noise in ".{0,40}") {
        let elapsed = Elapsed { total_us: total.max(app), app_us: app };
        prop_assert_eq!(Elapsed::parse(elapsed.to_value().as_bytes()), Some(elapsed));
        if let Some(read) = Elapsed::parse(noise.as_bytes()) {
            prop_assert!(read.app_us <= read.total_us);
        }
    }

    #[test]
    fn no_internal_name_survives(name in "[iI]sthmus[-_][a-z_-]{0,10}", connection in "[a-z, -]{0,20}") {
        prop_assert!(is_internal(&name));
        let mut map = headers(&[(&name, "1"), ("connection", connection.trim()), ("x-kept", "1")]);
        sanitize(&mut map);
        prop_assert!(!map.keys().any(|name| is_internal(name.as_str())));
        prop_assert!(take_port(&mut map).is_err());
    }
}
