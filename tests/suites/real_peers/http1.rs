//! HTTP/1 by curl and by hand, to nginx, HAProxy, and an app that shows the bytes it got.

use std::net::SocketAddr;

use isthmus_world::apps::raw::{self, Answer, End, Then};

use crate::curl::{curl, url};
use crate::shop::{DEADLINE, Shop, VIP};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("http1_get_and_head_reach_nginx", &["curl", "nginx"], get_and_head),
    ("http1_get_reaches_nginx_on_a_port_that_says_nothing", &["curl", "nginx"], detected),
    ("http1_get_and_head_reach_haproxy", &["curl", "haproxy"], haproxy),
    ("http1_answers_without_a_body_leave_the_connection_usable", &["curl", "nginx"], without_body),
    ("http1_callers_who_are_not_allowed_get_403", &["curl", "nginx"], refused),
    ("http1_keep_alive_keeps_one_connection", &["curl", "nginx"], keep_alive),
    ("http1_pipelined_requests_are_answered_in_order", &["nginx"], pipelined),
    ("http1_header_names_are_in_title_case_for_apps", &["curl", "python3"], title_case),
    ("http1_header_names_keep_their_case_where_a_service_asks", &["curl", "python3"], own_case),
    ("http1_heads_of_60_kib_pass_both_ways", &["curl", "nginx", "haproxy", "python3"], large_heads),
    ("http1_0_gets_an_answer_that_1_0_can_read", &["curl", "nginx", "python3"], http1_0),
    ("http1_early_hints_pass", &["curl", "python3"], early_hints),
    ("http1_a_client_that_half_closes_gets_its_answer", &["nginx"], half_close),
    ("http1_an_ambiguous_length_is_refused", &["python3"], ambiguous),
];

/// Bytes from `web` to a port of the service.
fn by_hand(shop: &Shop, port: u16, bytes: impl Into<Vec<u8>>, then: Then) -> Answer {
    let to = SocketAddr::new(VIP.parse().expect("an address"), port);
    raw::exchange(shop.host("web"), to, bytes, then, DEADLINE)
}

fn get_and_head(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &[url(8180, "/")]))?;
    require(got.status == 200 && got.version == "1.1", || format!("{got:?}"))?;
    require(got.text() == "nginx HTTP/1.1\n", || format!("{got:?}"))?;
    let server = got.field("server").unwrap_or_default();
    require(server.starts_with("nginx"), || format!("the answer is not nginx's: {got:?}"))?;

    let head = shop.crossing(1, || curl(shop, "web", &["--http1.1", "--head"], &[url(8180, "/")]))?;
    let length = head.field("content-length").unwrap_or_default();
    // --head writes the head to the output as well.
    require(head.status == 200 && length == "15" && !head.text().contains("nginx HTTP/1.1"), || format!("{head:?}"))
}

fn detected(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &[url(8181, "/")]))?;
    require(got.status == 200 && got.text() == "nginx HTTP/1.1\n", || format!("{got:?}"))
}

fn haproxy(shop: &Shop) -> Result<(), String> {
    shop.haproxy()?;
    let asked = ["--http1.1", "--header", "x-kept: as it was"];
    let got = shop.crossing(1, || curl(shop, "web", &asked, &[url(8190, "/any")]))?;
    let expected = format!("haproxy HTTP/1.1 GET {}:8190 as it was", crate::shop::NAME);
    require(got.status == 200 && got.text() == expected, || format!("{got:?}"))?;
    let head = shop.crossing(1, || curl(shop, "web", &["--http1.1", "--head"], &[url(8190, "/any")]))?;
    let length: usize = head.field("content-length").and_then(|n| n.parse().ok()).unwrap_or_default();
    require(head.status == 200 && length > 20, || format!("{head:?}"))?;
    let none = curl(shop, "web", &["--http1.1"], &[url(8190, "/none")])?;
    require(none.status == 204 && none.body.is_empty(), || format!("{none:?}"))
}

/// HEAD, 204 and 304 have no body whatever their fields say (RFC 9110, 6.4.1): the next request on the same connection
/// must find its answer.
fn without_body(shop: &Shop) -> Result<(), String> {
    let nginx = shop.nginx()?;
    std::fs::write(nginx.directory().join("files/page"), "the page").map_err(|e| e.to_string())?;
    let page = curl(shop, "web", &["--http1.1"], &[url(8180, "/files/page")])?;
    let tag = page.field("etag").ok_or_else(|| format!("nginx gave no etag: {page:?}"))?;

    let condition = format!("if-none-match: {tag}");
    let urls = [url(8180, "/files/page"), url(8180, "/none")];
    let got = shop.crossing(2, || curl(shop, "web", &["--http1.1", "--header", &condition], &urls))?;
    let statuses: Vec<&str> = got.head.lines().filter(|line| line.starts_with("HTTP/")).collect();
    let numbers: Vec<&str> = statuses.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    require(numbers == ["304", "204"] && got.connects == [1, 0], || format!("{got:?}"))?;

    let request = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nhost: {}:8180\r\n{more}\r\n", crate::shop::NAME)
    };
    let bytes = request("HEAD", "/files/page", "") + &request("GET", "/files/page", "connection: close\r\n");
    let answer = by_hand(shop, 8180, bytes, Then::Read);
    let text = answer.text();
    let heads = text.matches("HTTP/1.1 200").count();
    let once = text.matches("the page").count() == 1 && text.ends_with("the page");
    require(heads == 2 && once && answer.end == End::Closed, || format!("HEAD and then GET: {answer:?} {text}"))
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    for arguments in [["--http1.1"], ["--http2-prior-knowledge"]] {
        let got = curl(shop, "batch", &arguments, &[url(8180, "/")])?;
        let reason = got.field("isthmus-denied");
        require(got.status == 403 && reason == Some("not-allowed"), || format!("{got:?}"))?;
    }
    Ok(())
}

fn keep_alive(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let urls: Vec<String> = (0..5).map(|_| url(8180, "/")).collect();
    let got = shop.crossing(5, || curl(shop, "web", &["--http1.1"], &urls))?;
    require(got.status == 200 && got.connects == [1, 0, 0, 0, 0], || format!("{got:?}"))
}

fn pipelined(shop: &Shop) -> Result<(), String> {
    let nginx = shop.nginx()?;
    for name in ["one", "two", "three"] {
        std::fs::write(nginx.directory().join("files").join(name), format!("<{name}>")).map_err(|e| e.to_string())?;
    }
    let request = |name: &str, more: &str| {
        format!("GET /files/{name} HTTP/1.1\r\nhost: {}:8180\r\n{more}\r\n", crate::shop::NAME)
    };
    let bytes = request("one", "") + &request("two", "") + &request("three", "connection: close\r\n");
    let answer = shop.crossing(3, || Ok(by_hand(shop, 8180, bytes, Then::Read)))?;
    let text = answer.text();
    let bodies: Vec<&str> = text.split("\r\n\r\n").skip(1).filter_map(|rest| rest.split('>').next()).collect();
    require(bodies == ["<one", "<two", "<three"], || format!("{:?}: {text}", answer.end))
}

fn title_case(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let asked = ["--http1.1", "--header", "x-lower-case: 1", "--header", "X-UPPER-CASE: 2"];
    let got = shop.crossing(1, || curl(shop, "web", &asked, &[url(8210, "/head")]))?;
    let text = got.text();
    let both = text.contains("\r\nX-Lower-Case: 1\r\n") && text.contains("\r\nX-Upper-Case: 2\r\n");
    require(both, || format!("the app got {text}"))?;
    require(text.contains("\r\nHost: "), || format!("the app got {text}"))
}

fn own_case(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let asked = ["--http1.1", "--header", "x-lower-case: 1", "--header", "X-UPPER-CASE: 2", "--header", "x-MiXed: 3"];
    shop.with_traffic_policy("headerNames: Preserve", "headerNames: TitleCase", || {
        let got = shop.crossing(1, || curl(shop, "web", &asked, &[url(8210, "/head")]))?;
        let text = got.text();
        let names = ["x-lower-case: 1", "X-UPPER-CASE: 2", "x-MiXed: 3", "User-Agent: curl"];
        let lost = names.iter().find(|name| !text.contains(*name));
        require(lost.is_none(), || format!("{lost:?} is not what the app got: {text}"))
    })
}

fn large_heads(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    shop.haproxy()?;
    shop.http1_app()?;
    let large = "h".repeat(60 * 1024);
    let field = format!("x-large: {large}");
    let file = shop.file("headers");
    std::fs::write(&file, field).map_err(|e| e.to_string())?;
    // From a file: no argument may be so long on some systems.
    let from_file = format!("@{}", file.display());
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1", "--header", &from_file], &[url(8180, "/large")]))?;
    require(got.status == 200 && got.text() == large, || format!("nginx: {} {}", got.status, got.body.len()))?;
    require(got.field("x-back") == Some(&large), || "nginx's answer has lost its large field".to_owned())?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1", "--header", &from_file], &[url(8190, "/large")]))?;
    require(got.status == 200 && got.text() == "61440", || format!("HAProxy: {} {}", got.status, got.text()))?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &[url(8210, "/large")]))?;
    let length = got.field("x-large").map(str::len);
    require(got.status == 200 && length == Some(60 * 1024), || format!("the app's head: {} {length:?}", got.status))
}

fn http1_0(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    shop.http1_app()?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.0"], &[url(8180, "/")]))?;
    require(got.status == 200 && got.text().starts_with("nginx"), || format!("{got:?}"))?;
    // An answer whose length nobody knows: 1.0 has no chunks, its end is the connection's end.
    for path in ["/chunked", "/until-close"] {
        let request = format!("GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n", crate::shop::NAME);
        let answer = shop.crossing(1, || Ok(by_hand(shop, 8210, request, Then::Read)))?;
        let text = answer.text();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
        let expected = if path == "/chunked" { "one two three" } else { "the end is the end" };
        let chunked = text.to_ascii_lowercase().contains("transfer-encoding");
        require(body == Some(expected) && !chunked && answer.end == End::Closed, || {
            format!("{path}: {:?}: {text}", answer.end)
        })?;
    }
    // curl never asks 1.0 to stay; who asks by the old word is understood.
    let request = format!("GET / HTTP/1.0\r\nhost: {}\r\nconnection: keep-alive\r\n\r\n", crate::shop::NAME);
    let answer = by_hand(shop, 8180, request.repeat(2), Then::HalfClose);
    let answers = answer.text().matches(" 200 OK").count();
    require(answers == 2, || format!("keep-alive of 1.0: {:?} {}", answer.end, answer.text()))
}

fn early_hints(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &[url(8210, "/interim")]))?;
    require(got.status == 200 && got.text() == "after the hints", || format!("{got:?}"))?;
    let hints = got.head.contains(" 103 ") && got.field("link") == Some("</style.css>");
    require(hints, || format!("the interim answer is lost: {:?}", got.head))
}

fn half_close(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", crate::shop::NAME);
    let answer = shop.crossing(1, || Ok(by_hand(shop, 8180, request, Then::HalfClose)))?;
    require(answer.text().ends_with("nginx HTTP/1.1\n"), || format!("{:?}: {}", answer.end, answer.text()))
}

/// Two ways to read one request: whoever passes it on lets one of them be smuggled (RFC 9112, 6.3).
fn ambiguous(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let both = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET ";
    let twice = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nfive!";
    let folded = "GET /head HTTP/1.1\r\nhost: a\r\nx-one: 1\r\n two\r\n\r\n";
    let spaced = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n";
    let hosts = "GET /head HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    for bytes in [both, twice, folded, spaced, hosts] {
        let answer = by_hand(shop, 8210, bytes, Then::HalfClose);
        let text = answer.text();
        require(text.starts_with("HTTP/1.1 400 "), || format!("{bytes:?} got {:?}: {text}", answer.end))?;
        require(text.matches("HTTP/1.1").count() == 1, || format!("{bytes:?} was read as two requests: {text}"))?;
    }
    Ok(())
}
