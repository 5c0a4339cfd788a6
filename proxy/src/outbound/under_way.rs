//! Answers whose head the app has already. Their end is what a recorded request's span waits for, and what may make one worth
//! keeping that nobody had decided to record.

use std::rc::Rc;

use super::Outbound;
use super::hop::Hop;
use super::spans::{self, Asked};
use super::told::Ended;
use crate::http::followed::{End, Remembered};
use crate::http::spans::{self as of_http, Open};
use crate::telemetry::{self, Fate, Span, answered};

pub(super) struct UnderWay {
    pub(super) outbound: Rc<Outbound>,
    pub(super) grpc: bool,
    pub(super) open: Open<Perhaps>,
}

/// All that would be told of a request that is not recorded.
pub(super) struct Perhaps {
    hop: Hop<'static>,
    asked: Asked,
    ended: Ended,
}

impl Perhaps {
    pub(super) fn of(hop: &mut Hop<'_>, asked: &mut Asked, ended: Ended) -> Perhaps {
        let known = std::mem::replace(&mut asked.known, telemetry::Remembered::Nothing);
        Perhaps { hop: hop.outlive(), asked: Asked { known, ..*asked }, ended }
    }

    /// Where it is kept in the end.
    fn span(&self, outbound: &Outbound, fate: Fate) -> Option<Span> {
        let mut span = spans::begun(outbound, &self.hop, &self.asked, &self.ended, fate)?;
        answered(&mut span, http::StatusCode::from_u16(self.ended.status).unwrap_or_default(), None);
        Some(span)
    }
}

impl Remembered for UnderWay {
    fn ended(self, end: End<'_>, bytes: u64) {
        let UnderWay { outbound, grpc, open } = self;
        let fate = |status| of_http::fate_of(end, status, grpc);
        if let Some(span) = open.span(|request: Perhaps| request.span(&outbound, fate(request.ended.status))) {
            of_http::ended(&outbound.needs.tracer, span, end, (grpc, bytes));
        }
    }
}
