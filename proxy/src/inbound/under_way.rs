//! Answers of the app whose head is on its way to the caller already. Their end is what a recorded request's span waits for,
//! and what may make one worth keeping that nobody had decided to record.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use isthmus_certs::SpiffeId;

use super::Inbound;
use super::live::Signal;
use super::request::Hop;
use super::spans::{self, About, Asked, Between};
use super::told::Outcome;
use crate::http::body::BodyError;
use crate::http::followed::{End, Remembered};
use crate::http::spans::{self as of_http, Open};
use crate::state::policy::Arrived;
use crate::telemetry::{self, Fate, KeptTrace, Span, TraceContext, answered};

pub(super) struct UnderWay {
    pub(super) inbound: Rc<Inbound>,
    pub(super) grpc: bool,
    /// Says whether a policy that came meanwhile has ended it.
    pub(super) signal: Rc<Signal>,
    pub(super) open: Open<Perhaps>,
}

/// All that would be told of a request that is not recorded.
pub(super) struct Perhaps {
    peer: Option<SpiffeId>,
    source: IpAddr,
    app: SocketAddr,
    arrived: Arrived,
    http2: bool,
    came: Instant,
    trace: TraceContext,
    asked: Asked,
    outcome: Outcome,
    shared: Option<KeptTrace>,
}

impl Perhaps {
    pub(super) fn of(hop: &Hop<'_>, trace: &TraceContext, asked: &mut Asked, outcome: Outcome) -> Perhaps {
        let known = std::mem::replace(&mut asked.known, telemetry::Remembered::Nothing);
        Perhaps {
            peer: hop.peer.cloned(),
            source: hop.source,
            app: hop.app,
            arrived: hop.arrived,
            http2: hop.http2,
            came: hop.came,
            trace: trace.clone(),
            asked: Asked { known, ..*asked },
            outcome,
            shared: hop.shared(),
        }
    }

    /// Where it is kept in the end.
    fn span(&self, inbound: &Inbound, fate: Fate) -> Option<Span> {
        let Perhaps { source, app, arrived, http2, came, .. } = *self;
        let between = Between { peer: self.peer.as_ref(), source, app, arrived, http2, came };
        let (trace, asked, outcome) = (&self.trace, &self.asked, &self.outcome);
        let about = About { between, trace, asked, outcome, shared: &|| self.shared };
        let mut span = spans::begun(inbound, &about, fate)?;
        answered(&mut span, http::StatusCode::from_u16(outcome.status).unwrap_or_default(), None);
        Some(span)
    }
}

impl Remembered for UnderWay {
    fn ended(self, end: End<'_>, bytes: u64) {
        let UnderWay { inbound, grpc, signal, open } = self;
        let refusal = if matches!(end, End::Left) { signal.refusal() } else { None };
        let refused = refusal.as_ref().map(|refusal| BodyError::Refused(refusal.reason));
        let end = refused.as_ref().map_or(end, End::Broken);
        let fate = |status| of_http::fate_of(end, status, grpc);
        let span = open.span(|request: Perhaps| request.span(&inbound, fate(request.outcome.status)));
        let Some(mut span) = span else { return };
        let decision = refusal.as_ref().and_then(|refusal| refusal.decision.as_deref());
        span.set_some("isthmus.decision.id", decision.filter(|_| !span.has("isthmus.decision.id")));
        of_http::ended(&inbound.needs.tracer, span, end, (grpc, bytes));
    }
}
