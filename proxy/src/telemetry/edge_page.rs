//! The page's part about who talks to whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cells::STATUS_CLASSES;
use super::edges::{EdgeCell, EdgeName, EdgeRegistry};
use super::names::{self, Family};
use super::page::{Durations, Page};

type Seen = [(EdgeName, Vec<Arc<EdgeCell>>)];

pub(super) fn render(registry: &EdgeRegistry, page: &mut Page) {
    let (inbound, outbound): (Vec<_>, Vec<_>) = registry.each().into_iter().partition(|(name, _)| name.inbound);
    requests(page, names::SERVICE_REQUESTS, &outbound);
    durations(page, names::SERVICE_SECONDS, &outbound);
    connections(page, names::SERVICE_CONNECTIONS, &outbound);
    bytes(page, names::SERVICE_BYTES, &outbound);
    requests(page, names::CALLER_REQUESTS, &inbound);
    durations(page, names::CALLER_SECONDS, &inbound);
    connections(page, names::CALLER_CONNECTIONS, &inbound);
    bytes(page, names::CALLER_BYTES, &inbound);
    page.single(names::EDGES_BEYOND, registry.beyond.load(Relaxed));
}

fn requests(page: &mut Page, family: Family, edges: &Seen) {
    page.family(family);
    for (name, cells) in edges {
        for (class, word) in STATUS_CLASSES.iter().enumerate() {
            let count = sum(cells, |cell| &cell.requests[class]);
            if count > 0 {
                labelled(name, Some(("status", word)), |labels| page.sample(labels, count));
            }
        }
    }
}

fn durations(page: &mut Page, family: Family, edges: &Seen) {
    page.family(family);
    for (name, cells) in edges {
        let mut sum = Durations::default();
        cells.iter().for_each(|cell| cell.time.add_to(&mut sum));
        if sum.total() > 0 {
            labelled(name, None, |labels| page.sample(labels, sum));
        }
    }
}

fn connections(page: &mut Page, family: Family, edges: &Seen) {
    page.family(family);
    for (name, cells) in edges {
        let count = sum(cells, |cell| &cell.connections);
        if count > 0 {
            labelled(name, None, |labels| page.sample(labels, count));
        }
    }
}

fn bytes(page: &mut Page, family: Family, edges: &Seen) {
    page.family(family);
    for (name, cells) in edges {
        for (at, flow) in ["to-callee", "from-callee"].into_iter().enumerate() {
            let count = sum(cells, |cell| &cell.bytes[at]);
            if count > 0 {
                labelled(name, Some(("flow", flow)), |labels| page.sample(labels, count));
            }
        }
    }
}

fn labelled(name: &EdgeName, more: Option<(&str, &str)>, write: impl FnOnce(&[(&str, &str)])) {
    let port = name.port.to_string();
    if name.inbound {
        let labels = [("caller", &*name.name), ("port", &port)];
        return write(&labels.into_iter().chain(more).collect::<Vec<_>>());
    }
    let service = name.in_words();
    let labels = [("service", &*service), ("port", &port), ("site", &name.site)];
    write(&labels.into_iter().chain(more).collect::<Vec<_>>());
}

fn sum(cells: &[Arc<EdgeCell>], of: impl Fn(&EdgeCell) -> &AtomicU64) -> u64 {
    cells.iter().map(|cell| of(cell).load(Relaxed)).sum()
}
