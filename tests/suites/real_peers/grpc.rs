//! gRPC by its own core (Python's grpcio): every kind of stream, statuses in trailers, deadlines that reach the server.

use isthmus_world::apps::{self, Daemon};
use isthmus_world::otlp::Span;

use crate::shop::{DEADLINE, NAME, Shop};
use crate::{Case, require};

const PROGRAMS: &[&str] = &["python3", "python:grpc"];

pub(crate) const CASES: &[Case] = &[
    ("grpc_unary_calls_and_their_metadata_pass", PROGRAMS, unary),
    ("grpc_streams_of_all_kinds_pass_message_by_message", PROGRAMS, streams),
    ("grpc_a_status_comes_with_its_details", PROGRAMS, status),
    ("grpc_a_stream_that_breaks_is_traced_though_nobody_samples", PROGRAMS, breaks),
    ("grpc_a_deadline_ends_the_call_at_the_server_too", PROGRAMS, deadline),
    ("grpc_a_cancelled_call_is_cancelled_at_the_server", PROGRAMS, cancelled),
    ("grpc_a_thousand_calls_at_once_are_all_answered", PROGRAMS, thousand),
    ("grpc_a_message_of_4_mb_passes_both_ways", PROGRAMS, large),
    ("grpc_a_server_that_goes_away_under_load_costs_no_call", PROGRAMS, aging),
    ("grpc_a_refusal_is_a_status_that_grpc_understands", PROGRAMS, refused),
];

const SERVER: &str = include_str!("programs/grpc_server.py");
const CLIENT: &str = include_str!("programs/grpc_client.py");

/// Runs one of the client's scenes, which asserts what it gets and exits with 0 when all was so.
fn scene(shop: &Shop, name: &str, streams: u32) -> Result<(), String> {
    let server = shop.grpc()?;
    shop.crossing(streams, || play(shop, server, "web", 8300, name))
}

fn play(shop: &Shop, server: &Daemon, from: &str, port: u16, name: &str) -> Result<(), String> {
    let target = format!("{NAME}:{port}");
    let done = apps::python_client(shop.host(from), CLIENT, &[&target, name], DEADLINE).map_err(|e| e.to_string())?;
    require(done.status.success(), || {
        let last = done.stderr.lines().last().unwrap_or_default();
        format!("{name}: {last}\n{}{}\nserver: {}", done.stdout, done.stderr, server.process().last_lines())
    })
}

pub(crate) fn start(host: &isthmus_world::Host) -> Result<Daemon, isthmus_world::Error> {
    apps::python_server(host, 8300, SERVER, &["8300"])
}

pub(crate) fn start_aging(host: &isthmus_world::Host) -> Result<Daemon, isthmus_world::Error> {
    apps::python_server(host, 8301, SERVER, &["8301", "200"])
}

/// Its GOAWAYs arrive while 32 calls are on their way; a stream that is older than its connection's age goes on.
fn aging(shop: &Shop) -> Result<(), String> {
    let server = shop.aging_grpc()?;
    shop.crossing(1_000, || play(shop, server, "web", 8301, "aging"))
}

fn unary(shop: &Shop) -> Result<(), String> {
    scene(shop, "unary", 1)
}

fn streams(shop: &Shop) -> Result<(), String> {
    ["server_stream", "client_stream", "bidi_stream"].iter().try_for_each(|name| scene(shop, name, 1))
}

fn status(shop: &Shop) -> Result<(), String> {
    scene(shop, "status", 1)
}

/// Its code comes in trailers, after a good head and two messages. No header says which trace it is: both sidecars know.
fn breaks(shop: &Shop) -> Result<(), String> {
    const CALL: &str = "peers.Peers/Breaks";
    let (server, collector) = (shop.grpc()?, shop.mesh().collector());
    shop.with_traffic_policy("telemetry: { sampling: 0 }", "telemetry: { sampling: 1 }", || {
        collector.clear();
        shop.crossing(2, || play(shop, server, "web", 8300, "breaks"))?;
        let both = |spans: &[Span]| spans.iter().filter(|span| span.name == CALL).count() == 2;
        let spans = collector.wait("the call's spans of both sidecars", DEADLINE, both).map_err(|e| e.to_string())?;
        let trace = &spans.iter().find(|span| span.name == CALL).ok_or("no span of the call")?.trace_id;
        let spans = collector.wait_for_trace(trace, DEADLINE, |spans| spans.len() == 3).map_err(|e| e.to_string())?;
        let hop = |name: &str| {
            let found = spans.iter().find(|span| span.attribute("isthmus.hop") == Some(name));
            found.ok_or_else(|| format!("no {name} in {spans:?}"))
        };
        let (outbound, link, inbound) = (hop("outbound")?, hop("link")?, hop("inbound")?);
        let parents = [&link.parent_id, &inbound.parent_id];
        require(parents == [&outbound.span_id, &link.span_id], || format!("no tree: {spans:?}"))?;
        for span in [outbound, inbound] {
            let said = ["isthmus.kept", "rpc.response.status_code", "error.type"].map(|name| span.attribute(name));
            require(said == [Some("error"), Some("INTERNAL"), Some("INTERNAL")], || format!("{said:?}: {span:?}"))?;
        }
        // The call before it went well.
        let others = collector.spans().into_iter().filter(|span| span.name == "peers.Peers/ServerStream").count();
        require(others == 0, || format!("{others} spans of a call that went well"))
    })
}

/// The server says when a call that still runs has ended for it.
fn server_saw(shop: &Shop, line: &str) -> Result<(), String> {
    let seen = shop.grpc()?.process().wait_for_line(line, DEADLINE, |seen| seen == line);
    seen.map(|_| ()).map_err(|e| e.to_string())
}

fn deadline(shop: &Shop) -> Result<(), String> {
    scene(shop, "deadline", 1)?;
    server_saw(shop, "ended early: deadline, which it knew")
}

fn cancelled(shop: &Shop) -> Result<(), String> {
    scene(shop, "cancel", 1)?;
    server_saw(shop, "ended early: cancel")
}

fn thousand(shop: &Shop) -> Result<(), String> {
    scene(shop, "thousand", 1_000)
}

fn large(shop: &Shop) -> Result<(), String> {
    scene(shop, "large", 1)
}

fn refused(shop: &Shop) -> Result<(), String> {
    let server = shop.grpc()?;
    shop.refusing(|| play(shop, server, "batch", 8300, "refused"))
}
