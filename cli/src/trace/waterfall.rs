//! Spans of one trace as rows: parents before their children, each with its place in time. Pure.
//!
//! The hosts' clocks may differ. A span of another host that is not within its parent, and would fit, is moved into the
//! middle of it, and all below it of that host with it: what is shown then is the order and the lengths, which each host
//! has measured by itself, and not the clocks' difference.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_proto::admin::v1::KeptSpan;
use isthmus_proto::traces::v1::{Kind, Span};

/// Deeper ones are shown at this depth.
const DEEPEST: usize = 12;
/// Of the bar, in columns.
const SHORTEST_BAR: usize = 20;

/// A trace, ready to be shown.
#[derive(Debug)]
pub(super) struct Waterfall<'a> {
    pub(super) rows: Vec<Row<'a>>,
    pub(super) start_ns: u64,
    pub(super) length_us: u64,
}

/// One span.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) span: &'a Span,
    pub(super) workload: &'a str,
    pub(super) site: &'a str,
    pub(super) depth: usize,
    /// From the beginning of the trace.
    pub(super) start_us: u64,
    pub(super) length_us: u64,
    /// By how much its host's clock was set right.
    pub(super) moved_us: i64,
}

impl Row<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self.span.kind() {
            Kind::Client => "client",
            Kind::Server => "server",
            Kind::Internal => "internal",
            Kind::Unspecified => "",
        }
    }
}

/// A span with the time that it has after its clock was set right, in nanoseconds.
struct Placed<'a> {
    kept: &'a KeptSpan,
    span: &'a Span,
    depth: usize,
    start: i128,
    moved: i128,
}

impl<'a> Waterfall<'a> {
    pub(super) fn of(kept: &'a [KeptSpan]) -> Waterfall<'a> {
        let spans: Vec<(&KeptSpan, &Span)> = kept.iter().filter_map(|kept| Some((kept, kept.span.as_ref()?))).collect();
        let known: BTreeSet<&[u8]> = spans.iter().map(|(_, span)| span.span_id.as_slice()).collect();
        let mut children: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        let mut roots = Vec::new();
        for (at, (_, span)) in spans.iter().enumerate() {
            match known.contains(span.parent_id.as_slice()) {
                true => children.entry(&span.parent_id).or_default().push(at),
                false => roots.push(at),
            }
        }
        let mut walk = Walk { spans: &spans, children: &children, seen: BTreeSet::new(), placed: Vec::new() };
        roots.into_iter().for_each(|at| walk.place(at));
        // Spans that name each other as parents hang nowhere.
        (0..spans.len()).for_each(|at| walk.place(at));
        rows(walk.placed)
    }

    pub(super) fn id(&self) -> String {
        self.rows.first().map(|row| hex(&row.span.trace_id)).unwrap_or_default()
    }

    /// With bars, so wide.
    pub(super) fn in_words(&self, hidden: u32, width: usize) -> String {
        let proxies: BTreeSet<&str> = self.rows.iter().map(|row| row.workload).collect();
        let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let proxies = match proxies.len() {
            1 => "1 proxy".to_owned(),
            many => format!("{many} proxies"),
        };
        let mut text =
            format!("trace {}  {}, {proxies}, {}\n\n", self.id(), count(self.rows.len(), "span"), time(self.length_us));
        let names: Vec<String> = self.rows.iter().map(name).collect();
        let places: Vec<String> = self.rows.iter().map(place).collect();
        let widest = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let (name_width, place_width) = (widest(&names).min(44), widest(&places).min(40));
        let bar_width = width.saturating_sub(name_width + place_width + 16).max(SHORTEST_BAR);
        for ((row, name), place) in self.rows.iter().zip(&names).zip(&places) {
            let (name, place) = (cut(name, name_width), cut(place, place_width));
            let bar = self.bar(row, bar_width);
            let line = format!("{name:<name_width$}  {place:<place_width$}  {bar} {}", time(row.length_us));
            text += &match (row.span.failed, row.span.error.as_str()) {
                (false, _) => line,
                (true, "") => line + "  failed",
                (true, error) => format!("{line}  {error}"),
            };
            text.push('\n');
        }
        text + &self.notes(hidden)
    }

    /// What the sidecars told apart by their own clocks, and what is not to be seen.
    fn notes(&self, hidden: u32) -> String {
        let mut notes = String::new();
        if let Some(parts) = self.rows.iter().find_map(|row| parts(row.span)) {
            notes += &format!("\nwhere the time went: {parts}\n");
        }
        if self.rows.iter().any(|row| row.moved_us != 0) {
            notes +=
                "\nnote: the hosts' clocks differ; spans of the other host are shown in the middle of their callers'\n";
        }
        if hidden > 0 {
            notes += &format!("\nnote: {hidden} more of workloads that you may not see\n");
        }
        notes
    }

    fn bar(&self, row: &Row<'_>, width: usize) -> String {
        let column = |us: u64| (us as u128 * width as u128 / u128::from(self.length_us.max(1))) as usize;
        let from = column(row.start_us).min(width - 1);
        let to = column(row.start_us + row.length_us).clamp(from + 1, width);
        [" ".repeat(from), "█".repeat(to - from), " ".repeat(width - to)].concat()
    }
}

struct Walk<'a, 'w> {
    spans: &'w [(&'a KeptSpan, &'a Span)],
    children: &'w BTreeMap<&'a [u8], Vec<usize>>,
    seen: BTreeSet<usize>,
    placed: Vec<Placed<'a>>,
}

impl Walk<'_, '_> {
    /// This one and, below it, its children. Not by recursion: how deep they are is the proxies' word.
    fn place(&mut self, root: usize) {
        let mut next = vec![(root, 0, None::<usize>)];
        while let Some((at, depth, parent)) = next.pop() {
            if !self.seen.insert(at) {
                continue;
            }
            let (kept, span) = self.spans[at];
            let moved = parent.map_or(0, |parent| self.moved(&self.placed[parent], kept, span));
            let start = i128::from(span.start_unix_ns) + moved;
            self.placed.push(Placed { kept, span, depth, start, moved });
            let own = self.placed.len() - 1;
            let mut below = self.children.get(span.span_id.as_slice()).cloned().unwrap_or_default();
            // The one that begins first is taken from the end first.
            below.sort_by_key(|child| std::cmp::Reverse(self.spans[*child].1.start_unix_ns));
            next.extend(below.into_iter().map(|child| (child, depth + 1, Some(own))));
        }
    }

    /// What its host's clock is moved by.
    fn moved(&self, parent: &Placed<'_>, kept: &KeptSpan, span: &Span) -> i128 {
        if kept.workload == parent.kept.workload {
            return parent.moved;
        }
        let (own, whole) = (length(span), length(parent.span));
        let start = i128::from(span.start_unix_ns);
        let within = start >= parent.start && start + own <= parent.start + whole;
        if within || own > whole { 0 } else { parent.start + (whole - own) / 2 - start }
    }
}

fn length(span: &Span) -> i128 {
    i128::from(span.end_unix_ns) - i128::from(span.start_unix_ns)
}

fn rows(placed: Vec<Placed<'_>>) -> Waterfall<'_> {
    let start = placed.iter().map(|of| of.start).min().unwrap_or(0);
    let end = placed.iter().map(|of| of.start + length(of.span)).max().unwrap_or(0);
    let rows = placed.into_iter().map(|of| row(of, start)).collect();
    Waterfall { rows, start_ns: u64::try_from(start).unwrap_or(0), length_us: us(end - start) }
}

fn row(of: Placed<'_>, start: i128) -> Row<'_> {
    Row {
        span: of.span,
        workload: &of.kept.workload,
        site: &of.kept.site,
        depth: of.depth.min(DEEPEST),
        start_us: us(of.start - start),
        length_us: us(length(of.span)),
        moved_us: i64::try_from(of.moved / 1_000).unwrap_or(0),
    }
}

fn us(ns: i128) -> u64 {
    u64::try_from(ns / 1_000).unwrap_or(0)
}

/// What the caller's sidecar tells apart: nothing, where the callee's told it nothing.
fn parts(span: &Span) -> Option<String> {
    let us = |part: &str| {
        let of = span.attributes.iter().find(|of| of.name == format!("isthmus.time.{part}_us"))?;
        of.value.parse::<u64>().ok()
    };
    let (app, link, sidecars) = (us("app")?, us("link")?, us("outbound")?.saturating_add(us("inbound")?));
    let connection = us("connect")?;
    let [app, link, sidecars, connection] = [app, link, sidecars, connection].map(time);
    Some(format!("app {app}, link {link}, sidecars {sidecars}, connection {connection}"))
}

fn name(row: &Row<'_>) -> String {
    format!("{}{}", "  ".repeat(row.depth), super::what(row.span))
}

fn place(row: &Row<'_>) -> String {
    if row.site.is_empty() { row.workload.to_owned() } else { format!("{} ({})", row.workload, row.site) }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Three digits that matter.
pub(super) fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..10_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
#[path = "waterfall_test.rs"]
mod waterfall_test;
