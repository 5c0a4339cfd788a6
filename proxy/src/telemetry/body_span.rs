//! The span of a request whose answer has begun: it ends with the answer's body, where gRPC says how it went, and where a
//! stream that was reset shows.

use super::http_span::grpc_answered;
use super::span::Span;
use super::tracer::Tracer;
use crate::reason::Reason;

/// Recorded once: at the body's end, or when nobody reads it any more.
#[derive(Debug)]
pub struct BodySpan {
    tracer: Tracer,
    span: Option<Span>,
    bytes: u64,
}

impl BodySpan {
    pub(super) fn new(tracer: &Tracer, span: Span) -> BodySpan {
        BodySpan { tracer: tracer.clone(), span: Some(span), bytes: 0 }
    }

    pub fn bytes(&mut self, count: usize) {
        self.bytes += count as u64;
    }

    /// `grpc`: the status in its trailers.
    pub fn whole(&mut self, grpc: Option<&[u8]>) {
        self.end(|span| {
            if let Some(code) = grpc {
                grpc_answered(span, code);
            }
        });
    }

    pub fn broken(&mut self, word: &'static str) {
        self.end(|span| span.fail(word));
    }

    fn end(&mut self, say: impl FnOnce(&mut Span)) {
        let Some(mut span) = self.span.take() else { return };
        span.end_ns = self.tracer.now_ns();
        span.set("http.response.body.size", self.bytes);
        say(&mut span);
        self.tracer.record(span);
    }
}

impl Drop for BodySpan {
    fn drop(&mut self) {
        self.broken(Reason::CallerGone.word());
    }
}
