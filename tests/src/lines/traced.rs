//! Line 9: where the time of a request went, told apart without a common clock, and held against the link emulator's own
//! timestamps.

use std::time::Duration;

use serde_json::json;

use super::{Shown, require};
use crate::Awake;
use crate::apps::Request;
use crate::mesh::{Mesh, ORDERS_URL};
use crate::otlp::Span;

/// Requests of one series.
pub const SAMPLES: usize = 200;
const DEADLINE: Duration = Duration::from_secs(10);
/// The hops of a request in the order in which they begin.
const HOPS: [&str; 3] = ["outbound", "link", "inbound"];

/// Whatever else runs on the machine only adds to the time: of several series the closest one disturbs the least.
const SERIES: usize = 5;

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let (measured, series) = closest(mesh)?;
    let Measured { median, emulator, last } = &measured;
    require(measured.is_close() || !mesh.is_timed(), || {
        let allowed = measured.allowed();
        format!("the median link time is {median:?}, the emulator says {emulator:?}: more than {allowed:?} apart")
    })?;
    require(median >= &(*emulator / 2), || format!("a link time of {median:?} over a link of {emulator:?}"))?;
    tree(last)?;
    let outbound = hop(last, "outbound")?;
    let (app, link) = (time(outbound, "app")?, time(outbound, "link")?);
    let proxy = time(outbound, "outbound")? + time(outbound, "inbound")?;
    let (median, emulator) = (micros(*median), micros(*emulator));
    Ok(Shown {
        summary: format!(
            "app {app} µs, proxies {proxy} µs, link {link} µs; median link time of {SAMPLES}: {median} µs, \
             the emulator's own: {emulator} µs"
        ),
        more: waterfall(last)?,
        facts: json!({ "appUs": app, "proxyUs": proxy, "linkUs": link, "medianLinkUs": median, "emulatorUs": emulator,
                       "samples": SAMPLES, "series": series, "traceId": outbound.trace_id }),
    })
}

/// A series of requests, as the mesh and as the emulator saw it.
#[derive(Debug)]
pub struct Measured {
    /// Of the link times that the mesh's spans tell.
    pub median: Duration,
    /// The same by the emulator's timestamps.
    pub emulator: Duration,
    /// The spans of the last request.
    last: Vec<Span>,
}

impl Measured {
    /// How far the two may lie apart.
    pub fn allowed(&self) -> Duration {
        (self.emulator / 20).max(Duration::from_micros(150))
    }

    pub fn is_close(&self) -> bool {
        self.median.abs_diff(self.emulator) <= self.allowed()
    }
}

/// The first series that is close, else the last one; and its number, from 1 on.
///
/// # Errors
/// A request that was not answered, or a trace that is not complete.
pub fn closest(mesh: &Mesh) -> Result<(Measured, usize), String> {
    mesh.collector().clear();
    // Once, so that the connection across the link is there: its handshake is not a request's link time.
    let warm = mesh.get("web", ORDERS_URL)?;
    require(warm.status == 200, || format!("{} {}", warm.status, warm.body))?;
    let mut series = 1;
    loop {
        let measured = measure(mesh, series)?;
        if measured.is_close() || series == SERIES || !mesh.is_timed() {
            return Ok((measured, series));
        }
        series += 1;
    }
}

fn measure(mesh: &Mesh, series: usize) -> Result<Measured, String> {
    let awake = Awake::start();
    mesh.world().link().mark();
    let numbers = series * SAMPLES..(series + 1) * SAMPLES;
    for number in numbers.clone() {
        let request = Request::get(ORDERS_URL).header("traceparent", &traceparent(number));
        let answer = request.send(mesh.world().host("web"), DEADLINE).map_err(|e| e.to_string())?;
        require(answer.status == 200, || format!("request {number}: {} {}", answer.status, answer.text()))?;
    }
    drop(awake);
    let emulator = mesh.world().link().stats().round_trip().ok_or("no frame crossed the link")?;
    let mut times = Vec::with_capacity(SAMPLES);
    let mut last = Vec::new();
    for number in numbers {
        last = trace(mesh, number)?;
        times.push(time(hop(&last, "link")?, "link")?);
    }
    times.sort_unstable();
    Ok(Measured { median: Duration::from_micros(times[SAMPLES / 2]), emulator, last })
}

/// W3C Trace Context: the trace id and parent that the app chose, sampled.
fn traceparent(number: usize) -> String {
    format!("00-{}-{}-01", trace_id(number), APP_SPAN)
}

const APP_SPAN: &str = "00f067aa0ba902b7";

fn trace_id(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn trace(mesh: &Mesh, number: usize) -> Result<Vec<Span>, String> {
    let complete = |spans: &[Span]| HOPS.iter().all(|name| spans.iter().any(|span| is_hop(span, name)));
    mesh.collector().wait_for_trace(&trace_id(number), DEADLINE, complete).map_err(|e| e.to_string())
}

/// What OpenTelemetry calls a span is the method; which hop it is stands in an attribute.
fn is_hop(span: &Span, name: &str) -> bool {
    span.attribute("isthmus.hop") == Some(name)
}

fn hop<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span, String> {
    spans.iter().find(|span| is_hop(span, name)).ok_or_else(|| format!("the trace has no {name} span"))
}

/// Microseconds that a span's attribute tells of one part.
fn time(span: &Span, part: &str) -> Result<u64, String> {
    let name = format!("isthmus.time.{part}_us");
    let value = span.attribute(&name).and_then(|text| text.parse().ok());
    value.ok_or_else(|| format!("the {} span has no {name}", span.name))
}

/// app's caller → outbound → link → inbound.
fn tree(spans: &[Span]) -> Result<(), String> {
    let mut parent = APP_SPAN.to_owned();
    for name in HOPS {
        let span = hop(spans, name)?;
        require(span.parent_id == parent, || {
            format!("the parent of the {name} span is {} and not {parent}", span.parent_id)
        })?;
        parent.clone_from(&span.span_id);
    }
    Ok(())
}

/// Bars on the caller's clock, in microseconds: the link's own time is put half before and half after what the callee told,
/// and the app's at the end of its sidecar's.
fn waterfall(spans: &[Span]) -> Result<Vec<String>, String> {
    const WIDTH: u64 = 48;
    let [outbound, link, inbound] = HOPS.map(|name| hop(spans, name));
    let (outbound, link, inbound) = (outbound?, link?, inbound?);
    let left = link.start_ns.saturating_sub(outbound.start_ns) / 1000;
    let arrived = left + time(link, "link")? / 2;
    let whole = micros(outbound.duration()).max(1);
    let rows = [
        ("outbound", 0, whole),
        ("link", left, micros(link.duration())),
        ("inbound", arrived, micros(inbound.duration())),
        ("app", arrived + time(inbound, "inbound")?, time(inbound, "app")?),
    ];
    let column = |us: u64| usize::try_from((us.min(whole) * WIDTH) / whole).unwrap_or_default();
    let line = |(name, start, length): (&str, u64, u64)| {
        let (from, to) = (column(start), column(start + length).max(column(start) + 1));
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(to - from));
        format!("{name:<9} {bar:<50} {length:>6} µs")
    };
    let title = format!("trace {}, {whole} µs:", outbound.trace_id);
    Ok(std::iter::once(title).chain(rows.map(line)).collect())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
