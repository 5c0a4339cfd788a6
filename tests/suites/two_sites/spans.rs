//! What spans show of the link and of connections, through the real binaries and a collector.

use std::time::{Duration, Instant};

use isthmus_world::apps::Request;
use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[("a_loss_of_one_in_a_thousand_shows_as_retransmits_on_the_link_span", retransmits)];

const DEADLINE: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(30);

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
    // Without loss there are none, however long one looks.
    let (began, mut number) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(8) {
        let count = request(number)?;
        require(count.unwrap_or(0) == 0, || format!("{count:?} retransmits on a link that loses nothing"))?;
        number += 1;
    }
    require(request(number)? == Some(0), || "the kernel's view is not on the span".to_owned())?;
    mesh.world().link().set_loss(0.001);
    while began.elapsed() < DEADLINE {
        number += 1;
        if request(number)?.is_some_and(|count| count > 0) {
            return Ok(());
        }
    }
    Err(format!("no retransmit was seen in {number} requests"))
}
