//! Bodies of every kind and size: 100 MB, chunks, trailers, `Expect: 100-continue`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use isthmus_world::apps::raw::{self, End, Then};

use crate::curl::{curl, url};
use crate::shop::{DEADLINE, NAME, Shop, VIP};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("http1_100_mb_go_up_and_come_down_unchanged", &["curl", "nginx"], hundred_megabytes),
    ("http2_100_mb_go_up_and_come_down_unchanged", &["curl", "nginx"], hundred_megabytes_http2),
    ("http1_post_of_a_known_length_reaches_the_app_as_such", &["curl", "python3"], known_length),
    ("http1_chunked_bodies_pass_both_ways", &["curl", "nginx", "python3"], chunked),
    ("http1_trailers_pass_both_ways", &["python3"], trailers),
    ("http1_expect_continue_waits_for_the_apps_own_word", &["curl", "nginx"], expect_continue),
    ("http1_expect_continue_that_is_refused_sends_no_body", &["curl", "python3"], expect_refused),
];

const LARGE: usize = 100 * 1000 * 1000;

/// Bytes in which no block is like another.
fn noise(file: &Path, length: usize) -> Result<Vec<u8>, String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(length);
    fs::write(file, &bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn hundred_megabytes(shop: &Shop) -> Result<(), String> {
    up_and_down(shop, "--http1.1", 8180)
}

fn hundred_megabytes_http2(shop: &Shop) -> Result<(), String> {
    up_and_down(shop, "--http2-prior-knowledge", 8182)
}

fn up_and_down(shop: &Shop, version: &str, port: u16) -> Result<(), String> {
    let nginx = shop.nginx()?;
    let file = shop.file("large");
    let bytes = noise(&file, LARGE)?;
    let data = format!("@{}", file.display());
    let sent = shop.crossing(1, || {
        curl(shop, "web", &[version, "--header", "expect:", "--data-binary", &data], &[url(port, "/post")])
    })?;
    require(sent.status == 200 && sent.uploaded == LARGE as u64, || format!("{sent:?}"))?;
    // nginx answers with the name of the file that it took the body to.
    let stored = fs::read(sent.text()).map_err(|e| format!("{}: {e}", sent.text()))?;
    require(stored == bytes, || format!("nginx got {} bytes, not what was sent", stored.len()))?;
    drop(stored);

    fs::rename(sent.text(), nginx.directory().join("files/large")).map_err(|e| e.to_string())?;
    let got = shop.crossing(1, || curl(shop, "web", &[version], &[url(port, "/files/large")]))?;
    require(got.status == 200 && got.body == bytes, || format!("{} bytes, not what nginx has", got.body.len()))
}

fn known_length(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let got = shop.crossing(1, || {
        curl(shop, "web", &["--http1.1", "--data-binary", "exactly these bytes"], &[url(8210, "/echo")])
    })?;
    require(got.status == 200 && got.text() == "exactly these bytes", || format!("{got:?}"))?;
    // A GET with a body is odd and legal; its length stays a length, for apps that know no chunks.
    let got = curl(shop, "web", &["--http1.1", "-X", "GET", "--data-binary", "odd"], &[url(8210, "/head")])?;
    let head = got.text().to_ascii_lowercase();
    require(head.contains("content-length: 3\r\n") && !head.contains("transfer-encoding"), || format!("{got:?}"))
}

fn chunked(shop: &Shop) -> Result<(), String> {
    let nginx = shop.nginx()?;
    let file = shop.file("chunks");
    let bytes = noise(&file, 3_000_001)?;
    let upload = ["--http1.1", "--header", "transfer-encoding: chunked", "--header", "expect:", "--upload-file"];
    let arguments = [&upload[..], &[file.to_str().unwrap_or_default()]].concat();
    let sent = shop.crossing(1, || curl(shop, "web", &arguments, &[url(8180, "/files/chunks")]))?;
    require([201, 204].contains(&sent.status), || format!("{sent:?}"))?;
    let stored = fs::read(nginx.directory().join("files/chunks")).map_err(|e| e.to_string())?;
    require(stored == bytes, || format!("nginx got {} bytes, not what was sent", stored.len()))?;

    shop.http1_app()?;
    let got = shop.crossing(1, || curl(shop, "web", &["--http1.1"], &[url(8210, "/chunked")]))?;
    require(got.status == 200 && got.text() == "one two three", || format!("{got:?}"))?;
    let got = curl(shop, "web", &["--http1.1"], &[url(8210, "/until-close")])?;
    require(got.status == 200 && got.text() == "the end is the end", || format!("{got:?}"))
}

fn trailers(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let to = SocketAddr::new(VIP.parse().expect("an address"), 8210);
    let request = format!(
        "POST /trailers HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\
         trailer: x-up\r\n\r\n4\r\nbody\r\n0\r\nx-up: at the end\r\n\r\n"
    );
    let answer = shop.crossing(1, || Ok(raw::exchange(shop.host("web"), to, request, Then::Read, DEADLINE)))?;
    let text = answer.text().to_ascii_lowercase();
    require(text.contains("\r\n\r\nx-up: at the end"), || format!("the app got no trailer: {text}"))?;

    let request = format!("GET /chunked HTTP/1.1\r\nhost: {NAME}\r\nte: trailers\r\nconnection: te, close\r\n\r\n");
    let answer = shop.crossing(1, || Ok(raw::exchange(shop.host("web"), to, request, Then::Read, DEADLINE)))?;
    let text = answer.text().to_ascii_lowercase();
    let trailer = text.contains("\r\n0\r\nx-sum: 3 parts\r\n\r\n") && answer.end == End::Closed;
    require(trailer, || format!("the caller got no trailer: {:?}: {text}", answer.end))
}

fn expect_continue(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let file = shop.file("expected");
    let bytes = noise(&file, 200_000)?;
    let data = format!("@{}", file.display());
    let asked = ["--http1.1", "--header", "expect: 100-continue", "--expect100-timeout", "40", "--data-binary", &data];
    let sent = shop.crossing(1, || curl(shop, "web", &asked, &[url(8180, "/post")]))?;
    require(sent.status == 200 && sent.said.contains("< HTTP/1.1 100"), || format!("{sent:?}"))?;
    let stored = fs::read(sent.text()).map_err(|e| format!("{}: {e}", sent.text()))?;
    require(stored == bytes, || format!("nginx got {} bytes, not what was sent", stored.len()))
}

/// The app takes its time to refuse: whoever says 100 in its place has the body by then.
fn expect_refused(shop: &Shop) -> Result<(), String> {
    shop.http1_app()?;
    let file = shop.file("unwanted");
    noise(&file, 200_000)?;
    let data = format!("@{}", file.display());
    let asked = ["--http1.1", "--header", "expect: 100-continue", "--expect100-timeout", "40", "--data-binary", &data];
    let sent = shop.crossing(1, || curl(shop, "web", &asked, &[url(8210, "/unwanted")]))?;
    require(sent.status == 413, || format!("{sent:?}"))?;
    require(sent.uploaded == 0, || format!("{} bytes went out for an answer of 413", sent.uploaded))
}
