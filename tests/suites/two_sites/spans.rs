//! What spans show of the link and of connections, through the real binaries and a collector.

use std::time::{Duration, Instant};

use isthmus_world::apps::Request;
use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[("a_loss_of_one_in_a_thousand_shows_as_retransmits_on_the_link_span", retransmits)];

const DEADLINE: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(30);
/// Longer than from one look of the kernel's numbers to the next.
const QUIET: Duration = Duration::from_secs(8);

/// The kernel is asked every five seconds; some 650 segments go with each request, and one of a thousand is lost.
fn retransmits(mesh: &mut Mesh) -> Result<(), String> {
    let request = |number: u32| -> Result<Option<u64>, String> {
        let trace = format!("4bf92f3577b34da6a3ce929e{number:08x}");
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let request = Request::get(ORDERS_URL).method("POST").header("traceparent", &parent).body(vec![b'x'; 900_000]);
        let answer = request.send(mesh.world().host("web"), ANSWER).map_err(|e| e.to_string())?;
        require(answer.status < 500, || format!("{} {}", answer.status, answer.text()))?;
        let is_link = |span: &isthmus_world::otlp::Span| span.attribute("isthmus.hop") == Some("link");
        let spans = mesh.collector().wait_for_trace(&trace, ANSWER, |spans| spans.iter().any(is_link));
        let spans = spans.map_err(|e| e.to_string())?;
        let link = spans.iter().find(|span| is_link(span)).ok_or("no link span")?;
        Ok(link.attribute("isthmus.tcp.retransmitted_segments").and_then(|count| count.parse().ok()))
    };
    // Without loss their number stands still, on whichever connection one looks. Where the machine has no time for the
    // emulator the kernel takes late for lost: then it stands still a little later.
    let (began, mut number, mut most, mut quiet_since) = (Instant::now(), 0, None, Instant::now());
    while most.is_none() || quiet_since.elapsed() < QUIET {
        require(began.elapsed() < DEADLINE, || format!("{most:?} retransmits, and ever more, on a link without loss"))?;
        number += 1;
        let count = request(number)?;
        if count > most {
            (most, quiet_since) = (count, Instant::now());
        }
    }
    mesh.world().link().set_loss(0.001);
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        number += 1;
        if request(number)? > most {
            return Ok(());
        }
    }
    Err(format!("no retransmit was seen in {number} requests"))
}
