//! HTTP/2 with prior knowledge: curl to nginx and HAProxy, nghttp2's own tools to its own server.

use std::fs;

use isthmus_world::Command;

use crate::curl::{curl, url};
use crate::shop::{DEADLINE, Shop};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("http2_get_and_head_reach_nginx", &["curl", "nginx"], nginx),
    ("http2_get_reaches_haproxy", &["curl", "haproxy"], haproxy),
    ("http2_heads_of_60_kib_pass", &["curl", "nginx"], large_heads),
    ("http2_nghttp_sends_and_gets_trailers", &["nghttp", "nghttpd"], trailers),
    ("http2_nghttp_streams_both_ways_at_once", &["nghttp", "nghttpd"], echo),
    ("http1_and_http2_callers_are_refused_with_a_word_and_an_id_and_nothing_else", &["curl", "nginx"], refused),
    ("http2_h2load_has_no_failed_request", &["h2load", "nghttpd"], load),
];

const PRIOR: &str = "--http2-prior-knowledge";

fn nginx(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let got = shop.crossing(1, || curl(shop, "web", &[PRIOR], &[url(8182, "/")]))?;
    require(got.status == 200 && got.version == "2", || format!("{got:?}"))?;
    require(got.text() == "nginx HTTP/2.0\n", || format!("{got:?}"))?;
    let none = shop.crossing(1, || curl(shop, "web", &[PRIOR], &[url(8182, "/none")]))?;
    require(none.status == 204 && none.body.is_empty(), || format!("{none:?}"))?;
    let head = shop.crossing(1, || curl(shop, "web", &[PRIOR, "--head"], &[url(8182, "/")]))?;
    require(head.status == 200 && head.field("content-length") == Some("15"), || format!("{head:?}"))
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    for (version, arguments, port) in [("1.1", &[][..], 8180), ("2", &[PRIOR][..], 8182)] {
        let secret = url(port, "/secret");
        let got = shop.refusing(|| curl(shop, "batch", arguments, std::slice::from_ref(&secret)))?;
        require(got.status == 403 && got.version == version && got.text() == "not-allowed", || format!("{got:?}"))?;
        let mut names: Vec<String> =
            got.head.lines().filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect();
        names.sort();
        let usual = ["content-length", "content-type", "isthmus-decision", "isthmus-denied"];
        require(names.iter().filter(|name| *name != "date").eq(usual.iter()), || format!("{names:?}: {got:?}"))?;
        require(got.field("isthmus-denied") == Some("not-allowed"), || format!("{got:?}"))?;
        require(got.field("isthmus-decision").is_some_and(|id| id.len() == 16), || format!("{got:?}"))?;
    }
    Ok(())
}

fn haproxy(shop: &Shop) -> Result<(), String> {
    shop.haproxy()?;
    let asked = [PRIOR, "--header", "x-kept: as it was"];
    let got = shop.crossing(1, || curl(shop, "web", &asked, &[url(8191, "/any")]))?;
    let text = got.text();
    require(got.status == 200 && got.version == "2", || format!("{got:?}"))?;
    require(text.starts_with("haproxy HTTP/2.0 GET ") && text.ends_with(" as it was"), || format!("{got:?}"))
}

fn large_heads(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let large = "h".repeat(60 * 1024);
    let file = shop.file("headers");
    fs::write(&file, format!("x-large: {large}")).map_err(|e| e.to_string())?;
    let from_file = format!("@{}", file.display());
    let got = shop.crossing(1, || curl(shop, "web", &[PRIOR, "--header", &from_file], &[url(8182, "/large")]))?;
    require(got.status == 200 && got.text() == large, || format!("{} {}", got.status, got.body.len()))?;
    require(got.field("x-back") == Some(&large), || "the answer has lost its large field".to_owned())
}

fn trailers(shop: &Shop) -> Result<(), String> {
    let nghttpd = shop.nghttpd()?;
    let body = shop.file("small");
    fs::write(&body, "a body, then a trailer").map_err(|e| e.to_string())?;
    let command = Command::new("nghttp")
        .args(["--verbose", "--trailer", "x-sum: of the body", "--data"])
        .arg(&body)
        .arg(url(8200, "/hello"));
    let said = shop.crossing(1, || shop.succeed("web", command))?;
    require(said.contains("x-end: all of it"), || format!("nghttp got no trailer: {said}"))?;
    let seen = nghttpd.process().wait_for_line("the trailer", DEADLINE, |line| line.contains("x-sum: of the body"));
    seen.map(|_| ()).map_err(|e| e.to_string())
}

/// nghttpd sends back what it gets while it gets it: both directions are open for the whole time.
fn echo(shop: &Shop) -> Result<(), String> {
    shop.nghttpd()?;
    let body = shop.file("both-ways");
    // Lines, because the output of a program is read as lines here.
    let text: String = (0..300_000).map(|number| format!("line {number} of what goes both ways\n")).collect();
    fs::write(&body, &text).map_err(|e| e.to_string())?;
    let back = shop.file("back");
    let shell = "nghttp --data \"$0\" \"$1\" > \"$2\"";
    let command = Command::new("sh").args(["-c", shell]).arg(&body).arg(url(8200, "/echo")).arg(&back);
    shop.crossing(1, || shop.succeed("web", command))?;
    let back = fs::read(&back).map_err(|e| e.to_string())?;
    require(back == text.as_bytes(), || format!("{} bytes went out, {} came back", text.len(), back.len()))
}

fn load(shop: &Shop) -> Result<(), String> {
    shop.nghttpd()?;
    let command = Command::new("h2load").args(["-n", "3000", "-c", "4", "-m", "10"]).arg(url(8200, "/hello"));
    let said = shop.crossing(3000, || shop.succeed("web", command))?;
    require(said.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), || said.clone())?;
    require(said.contains("status codes: 3000 2xx"), || said.clone())
}
