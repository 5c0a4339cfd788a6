//! A request of the app that waits for its answer: told of when it has one, and also when the app leaves before. Then what
//! carries the request is dropped wherever it is, and this with it.

use std::rc::Rc;
use std::time::Instant;

use super::Outbound;
use super::hop::Hop;
use super::spans::{self, Asked};
use super::told::{self, Ended};
use crate::http::Answer;
use crate::reason::Reason;
use crate::telemetry::{Direction, Remembered};

pub(super) struct Waiting<'a> {
    outbound: &'a Rc<Outbound>,
    pub(super) hop: Hop<'a>,
    asked: Asked,
    ended: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn begin(
        outbound: &'a Rc<Outbound>,
        hop: Hop<'a>,
        started: Instant,
        known: Remembered,
        grpc: bool,
    ) -> Waiting<'a> {
        Waiting { outbound, hop, asked: Asked { started, known, grpc }, ended: false }
    }

    /// It has its answer; `refused`: by this sidecar.
    pub(super) fn answered(&mut self, answer: &mut Answer, refused: Option<Reason>) {
        let wanted = !matches!(self.asked.known, Remembered::Nothing);
        let ended = told::ended(&answer.response, self.asked.started.elapsed(), refused, wanted);
        self.end(ended, Some(answer));
    }

    fn end(&mut self, ended: Ended, answer: Option<&mut Answer>) {
        let Waiting { outbound, hop, asked, .. } = self;
        let traced = outbound.needs.tracer.exemplar(&hop.trace, asked.started + ended.total);
        outbound.needs.metrics.request(Direction::Outbound, ended.status, ended.total, traced);
        told::tell(outbound, hop, asked.known.whole(), &ended, traced);
        match answer {
            Some(answer) => spans::request(outbound, hop, asked, ended, answer),
            None => spans::left(outbound, hop, asked, &ended),
        }
        self.ended = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            spans::way(self.outbound, &mut self.hop);
            let (total, reason) = (self.asked.started.elapsed(), Some(Reason::CallerGone));
            self.end(Ended { total, status: 0, reason, decision: None }, None);
        }
    }
}
