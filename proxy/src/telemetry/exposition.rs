//! All counters, added up over the workers: as a page, which is written in the form that its reader wants.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use isthmus_certs::Negotiated;

use crate::reason::Reason;

use super::accept::Form;
use super::cells::{Cell, Histogram, STATUS_CLASSES, Words};
use super::edge_page;
use super::link_page;
use super::metrics::{Direction, MeshSide, Metrics};
use super::names::{self, Family};
use super::page::{Durations, Page};
use super::process_page;
use super::protobuf_form;
use super::text_form::{self, Text};
use super::tracer::DropReason;

impl Metrics {
    /// All counters as Prometheus text. The size is bounded: every label's values are a closed set, or capped.
    pub fn render(&self) -> String {
        text_form::write(&self.page(), Text::Prometheus)
    }

    /// The same in the form that was asked for.
    pub fn render_as(&self, form: Form) -> Bytes {
        match form {
            Form::Text => self.render().into(),
            Form::OpenMetrics => text_form::write(&self.page(), Text::OpenMetrics).into(),
            Form::Protobuf => protobuf_form::write(&self.page()).into(),
        }
    }

    pub(super) fn page(&self) -> Page {
        let mut page = Page::default();
        self.render_traffic(&mut page);
        self.render_refusals(&mut page);
        self.render_mesh(&mut page);
        link_page::render(&self.links, &mut page);
        edge_page::render(&self.edges, &mut page);
        self.render_process(&mut page);
        page
    }

    fn render_traffic(&self, page: &mut Page) {
        page.family(names::REQUESTS);
        for direction in Direction::ALL {
            for (class, word) in STATUS_CLASSES.iter().enumerate() {
                let count = self.sum(|cell| &cell.requests[direction as usize][class]);
                if count > 0 || class == 2 {
                    page.sample(&[("direction", direction.word()), ("status", word)], count);
                }
            }
        }
        page.family(names::REQUEST_SECONDS);
        for direction in Direction::ALL {
            let labels = [("direction", direction.word())];
            self.histogram(page, &labels, |cell| &cell.request_time[direction as usize]);
        }
        page.family(names::LINK_SECONDS);
        self.histogram(page, &[], |cell| &cell.link_time);
        self.by_direction(page, names::CONNECTIONS_OPENED, |cell, at| cell.opened[at].load(Relaxed));
        self.by_direction(page, names::CONNECTIONS_ACTIVE, |cell, at| active(&cell.opened[at], &cell.closed[at]));
        page.family(names::BYTES);
        for direction in Direction::ALL {
            for (flow, word) in ["to-callee", "from-callee"].into_iter().enumerate() {
                let count = self.sum(|cell| &cell.bytes[direction as usize][flow]);
                page.sample(&[("direction", direction.word()), ("flow", word)], count);
            }
        }
        page.family(names::WORKER_CONNECTIONS);
        let workers = self.cells.len() - 1;
        for (worker, cell) in self.cells.iter().take(workers).enumerate() {
            page.sample(&[("worker", &worker.to_string())], cell.load());
        }
        page.single(names::WORKER_IMBALANCE, (self.imbalance() * 1e3).round() / 1e3);
    }

    fn render_refusals(&self, page: &mut Page) {
        // Every reason is present from the start, at 0: a rate over a series that appears with its first event is blind
        // to that event.
        for (family, would) in [(names::REFUSED, false), (names::WOULD_REFUSE, true)] {
            page.family(family);
            for direction in Direction::ALL {
                for reason in Reason::ALL {
                    let count = self.sum(|cell| {
                        let cells = if would { &cell.would_refuse } else { &cell.refused };
                        &cells[direction as usize][reason.index()]
                    });
                    page.sample(&[("direction", direction.word()), ("reason", reason.word())], count);
                }
            }
        }
        page.family(names::ACCEPT_ERRORS);
        for (word, count) in self.words(|cell| &cell.accept_errors) {
            page.sample(&[("cause", word)], count);
        }
    }

    fn render_mesh(&self, page: &mut Page) {
        self.by_side(page, names::MESH_OPENED, |cell, at| cell.mesh_opened[at].load(Relaxed));
        self.by_side(page, names::MESH_ACTIVE, |cell, at| active(&cell.mesh_opened[at], &cell.mesh_closed[at]));
        self.by_side(page, names::STREAMS_OPENED, |cell, at| cell.streams_opened[at].load(Relaxed));
        self.by_side(page, names::STREAMS_ACTIVE, |cell, at| {
            active(&cell.streams_opened[at], &cell.streams_closed[at])
        });
        page.family(names::MESH_FAILED);
        for side in MeshSide::ALL {
            for (word, count) in self.words(|cell| &cell.mesh_failed[side as usize]) {
                page.sample(&[("side", side.word()), ("reason", word)], count);
            }
        }
        self.render_negotiated(page);
        page.family(names::MESH_HANDSHAKE_SECONDS);
        for side in MeshSide::ALL {
            self.histogram(page, &[("side", side.word())], |cell| &cell.mesh_handshake[side as usize]);
        }
        page.family(names::RETRIES);
        for (at, protocol) in ["http", "tcp"].into_iter().enumerate() {
            page.sample(&[("protocol", protocol)], self.sum(|cell| &cell.retries[at]));
        }
        page.family(names::MESH_EVENTS);
        for (word, count) in self.words(|cell| &cell.mesh_events) {
            page.sample(&[("event", word)], count);
        }
    }

    fn render_negotiated(&self, page: &mut Page) {
        page.family(names::MESH_NEGOTIATED);
        for side in MeshSide::ALL {
            for (group, cipher) in Negotiated::GROUPS
                .iter()
                .enumerate()
                .flat_map(|(group, _)| Negotiated::CIPHERS.iter().enumerate().map(move |(cipher, _)| (group, cipher)))
            {
                let count = self.sum(|cell| &cell.mesh_negotiated[side as usize][group][cipher]);
                if count > 0 {
                    let (group, cipher) = (Negotiated::GROUPS[group], Negotiated::CIPHERS[cipher]);
                    let labels = [("side", side.word()), ("version", "1.3"), ("group", group), ("cipher", cipher)];
                    page.sample(&labels, count);
                }
            }
        }
    }

    fn render_process(&self, page: &mut Page) {
        page.family(names::SPANS_EXPORTED);
        page.sample(&[], self.sum(|cell| &cell.spans_exported));
        page.family(names::SPANS_DROPPED);
        for reason in DropReason::ALL {
            let count = self.sum(|cell| &cell.spans_dropped[reason as usize]);
            page.sample(&[("reason", reason.word())], count);
        }
        self.by_direction(page, names::NOT_FOLLOWED, |cell, at| cell.not_followed[at].load(Relaxed));
        page.family(names::ACCESS_DROPPED);
        page.sample(&[], self.sum(|cell| &cell.access_dropped));
        let process = &self.process;
        page.single(names::FLOWS_DROPPED, process.flows_dropped.load(Relaxed));
        page.single(names::REFUSALS_DROPPED, process.refusals_dropped.load(Relaxed));
        page.single(names::CONTROL_CONNECTED, process.control_connected.load(Relaxed));
        page.single(names::CONTROL_CONNECTS, process.control_connects.load(Relaxed));
        page.single(names::CONTROL_VERSION, process.control_version.load(Relaxed));
        page.single(names::CONTROL_LAG, (self.control_lag().as_secs_f64() * 1e3).round() / 1e3);
        page.family(names::CONTROL_UPDATES);
        page.sample(&[("result", "ack")], process.updates_acked.load(Relaxed));
        page.sample(&[("result", "nack")], process.updates_nacked.load(Relaxed));
        page.single(names::CERTIFICATE_EXPIRY, process.certificate_expiry.load(Relaxed));
        page.family(names::CERTIFICATE_RENEWALS);
        page.sample(&[("result", "ok")], process.renewals_ok.load(Relaxed));
        page.sample(&[("result", "failed")], process.renewals_failed.load(Relaxed));
        page.single(names::RENEWAL_FAILING, process.renewal_failing.load(Relaxed));
        page.single(names::LAST_GOOD, process.last_good.load(Relaxed));
        page.single(names::CAPTURE_RESTORED, process.capture_restored.load(Relaxed));
        let exposed = std::time::Duration::from_micros(process.capture_exposed_micros.load(Relaxed));
        page.single(names::CAPTURE_EXPOSED, exposed.as_secs_f64());
        page.single(names::CAPTURE_UDP_DROPPED, process.capture_udp_dropped.load(Relaxed));
        page.single(names::SOURCE_PRESERVED, process.source_preserved.load(Relaxed));
        page.single(names::READY, process.ready.load(Relaxed));
        page.single(names::EJECTED, process.ejected.load(Relaxed));
        page.single(names::EJECTIONS, process.ejections.load(Relaxed));
        page.single(names::CLOCK_SKEW, process.clock_skew_ms.load(Relaxed) as f64 / 1_000.0);
        process_page::render(page);
        self.render_target(page);
        page.family(names::BUILD);
        page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1u64);
    }

    /// The same as a span's resource, by the names that OpenTelemetry gives it in Prometheus.
    fn render_target(&self, page: &mut Page) {
        let resource = self.process.resource.lock().unwrap_or_else(PoisonError::into_inner);
        let named: Vec<_> = resource.iter().map(|(name, value)| (name.replace('.', "_"), value.as_str())).collect();
        let labels: Vec<_> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        page.family(names::TARGET);
        page.sample(&labels, 1u64);
    }

    fn sum(&self, of: impl Fn(&Cell) -> &AtomicU64) -> u64 {
        self.cells.iter().map(|cell| of(cell).load(Relaxed)).sum()
    }

    fn words<'a>(&'a self, of: impl Fn(&'a Cell) -> &'a Words) -> std::collections::BTreeMap<&'static str, u64> {
        let mut merged = std::collections::BTreeMap::new();
        for (word, count) in self.cells.iter().flat_map(|cell| of(cell).each()) {
            *merged.entry(word).or_default() += count;
        }
        merged
    }

    fn by_direction(&self, page: &mut Page, family: Family, of: impl Fn(&Cell, usize) -> u64) {
        page.family(family);
        for direction in Direction::ALL {
            let sum: u64 = self.cells.iter().map(|cell| of(cell, direction as usize)).sum();
            page.sample(&[("direction", direction.word())], sum);
        }
    }

    fn by_side(&self, page: &mut Page, family: Family, of: impl Fn(&Cell, usize) -> u64) {
        page.family(family);
        for side in MeshSide::ALL {
            let sum: u64 = self.cells.iter().map(|cell| of(cell, side as usize)).sum();
            page.sample(&[("side", side.word())], sum);
        }
    }

    fn histogram(&self, page: &mut Page, labels: &[(&str, &str)], of: impl Fn(&Cell) -> &Histogram) {
        let mut sum = Durations::default();
        self.cells.iter().for_each(|cell| of(cell).add_to(&mut sum));
        page.sample(labels, sum);
    }
}

fn active(opened: &AtomicU64, closed: &AtomicU64) -> u64 {
    // Closed first: read the other way round, a connection that opens and closes between the reads would be negative.
    let closed = closed.load(Relaxed);
    opened.load(Relaxed).saturating_sub(closed)
}

#[cfg(test)]
#[path = "exposition_test.rs"]
mod exposition_test;
