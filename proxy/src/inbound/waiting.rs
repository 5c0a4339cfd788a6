//! A request to the app that waits for its answer: told of when it has one, and also when its caller leaves before. Then what
//! carries the request is dropped wherever it is, and this with it.

use std::rc::Rc;
use std::time::Duration;

use super::Inbound;
use super::request::Hop;
use super::spans::{self, Asked};
use super::told::{self, Outcome};
use crate::http::Answer;
use crate::reason::Reason;
use crate::telemetry::{Direction, Remembered, TraceContext};

pub(super) struct Waiting<'a> {
    inbound: &'a Rc<Inbound>,
    pub(super) hop: Hop<'a>,
    pub(super) trace: TraceContext,
    asked: Asked,
    ended: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn begin(
        inbound: &'a Rc<Inbound>,
        (hop, trace): (Hop<'a>, TraceContext),
        known: Remembered,
        grpc: bool,
    ) -> Waiting<'a> {
        let asked = Asked { known, grpc, total: Duration::ZERO };
        Waiting { inbound, hop, trace, asked, ended: false }
    }

    /// It has its answer, after `total`. Whether anybody was told of more than the counts.
    pub(super) fn answered(&mut self, total: Duration, outcome: Outcome, answer: &mut Answer) -> bool {
        let wanted = self.asked.known.whole().is_some();
        self.end(total, outcome, Some(answer));
        wanted
    }

    fn end(&mut self, total: Duration, outcome: Outcome, answer: Option<&mut Answer>) {
        let Waiting { inbound, hop, trace, asked, .. } = self;
        asked.total = total;
        told::tell(inbound, hop, trace, asked.known.whole(), total, &outcome);
        match answer {
            Some(answer) => spans::request(inbound, hop, trace, asked, outcome, answer),
            None => spans::left(inbound, hop, trace, asked, &outcome),
        }
        self.ended = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let total = self.hop.came.elapsed();
            let traced = self.inbound.needs.tracer.exemplar(&self.trace, self.hop.came + total);
            self.inbound.needs.metrics.request(Direction::Inbound, 0, total, traced);
            let app = self.hop.app_time(total);
            let outcome = Outcome { app, ..Outcome::refused(Reason::CallerGone, None, 0) };
            self.end(total, outcome, None);
        }
    }
}
