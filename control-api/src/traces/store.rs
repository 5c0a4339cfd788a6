//! Traces in memory. Bounded by count, by bytes and by age, the oldest go first; no proxy has more than its share, so that
//! a busy or hostile one leaves the others' traces where they are.

use isthmus_proto::traces::v1 as wire;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Traces, whatever they weigh.
const MOST_TRACES: usize = 5_000;
/// What is kept, all in all.
const MOST_BYTES: usize = 32 << 20;
/// Of it, what one proxy may fill.
const MOST_BYTES_OF_ONE: usize = MOST_BYTES / 4;
const MOST_SPANS_OF_A_TRACE: usize = 256;
/// An hour: who looks for a trace looks soon.
const MOST_AGE_MS: i64 = 3_600_000;
/// Of one span; a proxy sends fewer.
const MOST_ATTRIBUTES: usize = 32;
const LONGEST_TEXT: usize = 256;
/// What a span weighs beside its texts, about.
const BASE: usize = 160;

/// 16 bytes, not all zero.
pub type TraceId = [u8; 16];

/// All traces.
#[derive(Debug, Default)]
pub struct TraceStore(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    traces: BTreeMap<TraceId, Trace>,
    /// By when they came first.
    order: VecDeque<TraceId>,
    bytes: usize,
    of_each: HashMap<Arc<str>, usize>,
    given_up: u64,
}

/// One trace, as far as it has come.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    pub first_ms: i64,
    /// By the proxy that told them, in the order in which they came.
    pub spans: Vec<(Arc<str>, Arc<wire::Span>)>,
}

/// Why there is no trace to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NoId,
    Unknown,
    Several,
}

impl TraceStore {
    /// What `workload` tells. What cannot be read or kept is counted.
    pub fn take(&self, workload: &str, spans: Vec<wire::Span>, now_ms: i64) {
        let mut kept = self.lock();
        kept.forget_old(now_ms);
        let workload: Arc<str> = workload.into();
        for span in spans {
            let taken = read(span).is_some_and(|(id, span)| kept.add(id, &workload, span, now_ms));
            kept.given_up += u64::from(!taken);
        }
    }

    /// All that there is now, the newest first.
    pub fn all(&self, now_ms: i64) -> Vec<(TraceId, Trace)> {
        let mut kept = self.lock();
        kept.forget_old(now_ms);
        kept.order.iter().rev().filter_map(|id| Some((*id, kept.traces.get(id)?.clone()))).collect()
    }

    /// The one that `text`, hexadecimal, is or begins.
    pub fn find(&self, text: &str, now_ms: i64) -> Result<Trace, Refused> {
        let (least, most) = range_of(text).ok_or(Refused::NoId)?;
        let mut kept = self.lock();
        kept.forget_old(now_ms);
        let mut found = kept.traces.range(least..=most);
        match (found.next(), found.next()) {
            (Some((_, trace)), None) => Ok(trace.clone()),
            (None, _) => Err(Refused::Unknown),
            (Some(_), Some(_)) => Err(Refused::Several),
        }
    }

    /// Spans that came and were not kept.
    pub fn given_up(&self) -> u64 {
        self.lock().given_up
    }

    /// Traces, spans' bytes: for the page.
    pub fn size(&self) -> (usize, usize) {
        let kept = self.lock();
        (kept.traces.len(), kept.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, id: TraceId, workload: &Arc<str>, span: wire::Span, now_ms: i64) -> bool {
        let weight = weight(&span);
        let own = self.of_each.get(workload).copied().unwrap_or(0);
        if own + weight > MOST_BYTES_OF_ONE {
            return false;
        }
        let known = self.traces.get(&id);
        if known.is_some_and(|trace| trace.spans.len() >= MOST_SPANS_OF_A_TRACE) {
            return false;
        }
        if known.is_none() {
            while self.traces.len() >= MOST_TRACES {
                self.forget_first();
            }
            self.traces.insert(id, Trace { first_ms: now_ms, spans: Vec::new() });
            self.order.push_back(id);
        }
        if let Some(trace) = self.traces.get_mut(&id) {
            trace.spans.push((workload.clone(), Arc::new(span)));
        }
        self.bytes += weight;
        *self.of_each.entry(workload.clone()).or_default() += weight;
        while self.bytes > MOST_BYTES {
            self.forget_first();
        }
        true
    }

    fn forget_old(&mut self, now_ms: i64) {
        let is_old = |trace: &Trace| now_ms.saturating_sub(trace.first_ms) > MOST_AGE_MS;
        while self.order.front().and_then(|id| self.traces.get(id)).is_some_and(is_old) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(trace) = self.order.pop_front().and_then(|id| self.traces.remove(&id)) else { return };
        for (workload, span) in trace.spans {
            let weight = weight(&span);
            self.bytes = self.bytes.saturating_sub(weight);
            if let Some(own) = self.of_each.get_mut(&workload) {
                *own = own.saturating_sub(weight);
                if *own == 0 {
                    self.of_each.remove(&workload);
                }
            }
        }
    }
}

fn weight(span: &wire::Span) -> usize {
    let texts = span.attributes.iter().map(|of| of.name.len() + of.value.len() + 48).sum::<usize>();
    BASE + span.name.len() + span.error.len() + texts
}

/// A span as it is kept: ids of their right length, texts cut and without control characters, which a terminal would obey.
pub fn read(mut span: wire::Span) -> Option<(TraceId, wire::Span)> {
    let id = TraceId::try_from(span.trace_id.as_slice()).ok().filter(|id| *id != [0; 16])?;
    let is_id = |bytes: &[u8]| bytes.len() == 8 && bytes != [0; 8];
    if !is_id(&span.span_id) || !(span.parent_id.is_empty() || is_id(&span.parent_id)) {
        return None;
    }
    if span.end_unix_ns < span.start_unix_ns || span.start_unix_ns > i64::MAX as u64 {
        return None;
    }
    span.attributes.truncate(MOST_ATTRIBUTES);
    let texts = span.attributes.iter_mut().flat_map(|of| [&mut of.name, &mut of.value]);
    texts.chain([&mut span.name, &mut span.error]).for_each(|text| {
        if text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
            *text = text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect();
        }
    });
    Some((id, span))
}

/// All ids that begin so.
fn range_of(text: &str) -> Option<(TraceId, TraceId)> {
    let digits = |fill: char| -> Option<TraceId> {
        let whole: String = text.chars().chain(std::iter::repeat(fill)).take(32).collect();
        u128::from_str_radix(&whole, 16).ok().map(u128::to_be_bytes)
    };
    let readable = (4..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    readable.then(|| Some((digits('0')?, digits('f')?))).flatten()
}

#[cfg(test)]
#[path = "store_test.rs"]
mod store_test;
