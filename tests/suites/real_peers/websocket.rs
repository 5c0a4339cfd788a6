//! WebSockets by a library of another language (Python's websockets), over HTTP/1's Upgrade; and over HTTP/2's extended
//! CONNECT (RFC 8441), between two HAProxys that turn the one into the other.

use isthmus_world::apps::{self};

use crate::curl::curl;
use crate::shop::{DEADLINE, NAME, Shop};
use crate::{Case, require};

const PROGRAMS: &[&str] = &["python3", "python:websockets"];
const OVER_HTTP2: &[&str] = &["haproxy", "curl", "python3", "python:websockets"];

pub(crate) const CASES: &[Case] = &[
    ("websocket_echoes_text_and_bytes", PROGRAMS, echo),
    ("websocket_pings_are_answered_by_the_other_end", PROGRAMS, ping),
    ("websocket_messages_of_4_mb_pass", PROGRAMS, large),
    ("websocket_close_codes_pass_both_ways", PROGRAMS, close_codes),
    ("websocket_subprotocol_and_compression_are_negotiated_end_to_end", PROGRAMS, negotiated),
    ("websocket_an_upgrade_that_the_app_refuses_is_a_plain_answer", PROGRAMS, app_refuses),
    ("websocket_is_refused_for_who_is_not_allowed", PROGRAMS, refused),
    ("websocket_over_http2_from_end_to_end", OVER_HTTP2, over_http2),
];

const SERVER: &str = include_str!("programs/websocket_server.py");
const CLIENT: &str = include_str!("programs/websocket_client.py");

fn scene(shop: &Shop, name: &str) -> Result<(), String> {
    let server = shop.websocket()?;
    let done = shop.crossing(1, || play(shop, "web", name))?;
    require(done.status.success(), || {
        let last = done.stderr.lines().last().unwrap_or_default();
        format!("{name}: {last}\n{}{}\nserver: {}", done.stdout, done.stderr, server.process().last_lines())
    })
}

fn play(shop: &Shop, from: &str, name: &str) -> Result<isthmus_world::Finished, String> {
    let url = format!("ws://{NAME}:8220/");
    apps::python_client(shop.host(from), CLIENT, &[&url, name], DEADLINE).map_err(|e| e.to_string())
}

pub(crate) fn start(host: &isthmus_world::Host) -> Result<apps::Daemon, isthmus_world::Error> {
    apps::python_server(host, 8220, SERVER, &["8220"])
}

fn echo(shop: &Shop) -> Result<(), String> {
    scene(shop, "echo")
}

fn ping(shop: &Shop) -> Result<(), String> {
    scene(shop, "ping")
}

fn large(shop: &Shop) -> Result<(), String> {
    scene(shop, "large")
}

fn close_codes(shop: &Shop) -> Result<(), String> {
    scene(shop, "server_closes")?;
    scene(shop, "client_closes")?;
    let line = "closed by the client: 4002 enough";
    let seen = shop.websocket()?.process().wait_for_line(line, DEADLINE, |seen| seen == line);
    seen.map(|_| ()).map_err(|e| e.to_string())
}

fn negotiated(shop: &Shop) -> Result<(), String> {
    scene(shop, "negotiated")
}

fn app_refuses(shop: &Shop) -> Result<(), String> {
    scene(shop, "not_found")
}

/// The caller's HAProxy speaks HTTP/2 to the service, and the callee's takes nothing else: what crosses the two sidecars is
/// extended CONNECT from the app on.
fn over_http2(shop: &Shop) -> Result<(), String> {
    let (server, _) = (shop.websocket()?, shop.haproxy()?);
    let caller = shop.haproxy_websocket()?;
    for scene in ["echo", "ping", "large", "negotiated", "server_closes", "client_closes"] {
        let url = "ws://127.0.0.1:8241/";
        let play = || apps::python_client(shop.host("web"), CLIENT, &[url, scene], DEADLINE).map_err(|e| e.to_string());
        let done = shop.crossing(1, play)?;
        require(done.status.success(), || {
            let logs = caller.process().last_lines() + &server.process().last_lines();
            format!("{scene}: {}{}\n{logs}", done.stdout, done.stderr)
        })?;
    }
    // And plain requests go on beside them.
    let got = curl(shop, "web", &["--http1.1"], &["http://127.0.0.1:8241/missing".to_owned()])?;
    require(got.status == 404 && got.text() == "no socket here\n", || format!("{got:?}"))
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.websocket()?;
    let done = shop.refusing(|| play(shop, "batch", "forbidden"))?;
    require(done.status.success(), || format!("{}{}", done.stdout, done.stderr))
}
