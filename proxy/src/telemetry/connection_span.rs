//! The span of a connection whose bytes we do not read: one on each side, from its beginning to its end, with the bytes both
//! ways and how it ended. A connection may live for days and a span is sent when it ends: until then a record of its own
//! tells every ten minutes what was carried since the last.
//!
//! One that is not sampled is a null pointer: no task, no timer, nothing allocated.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::span::{Kind, Span};
use super::trace_context::TraceContext;
use super::tracer::Tracer;
use crate::reason::Reason;
use crate::tcp::Copied;

/// How often a connection that goes on is told of.
const EVERY: Duration = Duration::from_secs(600);

/// A connection under way, as its trace will show it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionSpan(Option<Rc<Open>>);

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    context: TraceContext,
    span: RefCell<Option<Span>>,
    copied: Copied,
    /// Up to here a record told of it: when, and the bytes to the server and to the client.
    told: Cell<(u64, u64, u64)>,
    records: RefCell<Option<AbortHandle>>,
    /// Which directions have ended, where they are told of apart.
    halves: Cell<(bool, bool)>,
}

impl ConnectionSpan {
    /// Begins one at `start_ns`, if `context` is sampled. Runs on a worker: its records are a task there.
    pub fn begin(
        tracer: &Tracer,
        context: &TraceContext,
        (kind, name): (Kind, &'static str),
        start_ns: u64,
    ) -> ConnectionSpan {
        let Some(span) = context.span(kind, name, start_ns) else { return ConnectionSpan(None) };
        let open = Rc::new(Open {
            tracer: tracer.clone(),
            context: context.clone(),
            span: RefCell::new(Some(span)),
            copied: Copied::default(),
            told: Cell::new((start_ns, 0, 0)),
            records: RefCell::new(None),
            halves: Cell::new((false, false)),
        });
        // Ends with the span.
        let task = tokio::task::spawn_local(tell_again(Rc::downgrade(&open)));
        *open.records.borrow_mut() = Some(task.abort_handle());
        ConnectionSpan(Some(open))
    }

    pub fn is_sampled(&self) -> bool {
        self.0.is_some()
    }

    /// Says more of it, where anybody listens.
    pub fn with(&self, describe: impl FnOnce(&mut Span)) {
        let Some(open) = &self.0 else { return };
        if let Some(span) = open.span.borrow_mut().as_mut() {
            describe(span);
        }
    }

    /// Where its bytes are counted, `sent` being what the app of this side said; `own` where it is not sampled.
    pub fn copied<'a>(&'a self, own: &'a Copied) -> &'a Copied {
        self.0.as_ref().map_or(own, |open| &open.copied)
    }

    /// The same for a connection that `own` has begun to count.
    pub fn counts<'a>(&'a self, own: &'a Copied) -> &'a Copied {
        let copied = self.copied(own);
        copied.sent.set(own.sent.get());
        copied.received.set(own.received.get());
        copied
    }

    /// For the other sidecar.
    pub fn context(&self) -> Option<&TraceContext> {
        self.0.as_ref().map(|open| &open.context)
    }

    /// It was carried to its end, or broke.
    pub fn ended(&self, result: &io::Result<()>) {
        match result {
            Ok(()) => self.end("closed", None),
            Err(error) => self.end(word_of(error), Some(word_of(error))),
        }
    }

    /// One direction has ended; the other may go on.
    pub fn half_closed(&self, sent: bool) {
        let Some(open) = &self.0 else { return };
        let (was_sent, was_received) = open.halves.get();
        let halves = (was_sent || sent, was_received || !sent);
        open.halves.set(halves);
        if halves == (true, true) {
            self.end("closed", None);
        }
    }

    /// It did not become one.
    pub fn discard(&self) {
        if let Some(open) = &self.0 {
            open.stop_records();
            open.span.borrow_mut().take();
        }
    }

    /// It was not to be, or no longer.
    pub fn refused(&self, reason: Reason, decision: Option<&str>) {
        self.with(|span| {
            span.set("isthmus.reason", reason.word());
            span.set_some("isthmus.decision.id", decision);
        });
        self.end("refused", Some(reason.word()));
    }

    /// The first word holds.
    pub fn end(&self, how: &'static str, error: Option<&'static str>) {
        let Some(open) = &self.0 else { return };
        let Some(mut span) = open.span.borrow_mut().take() else { return };
        span.end_ns = open.tracer.now_ns();
        open.count(&mut span);
        span.set("isthmus.end", how);
        if let Some(word) = error {
            span.fail(word);
        }
        open.stop_records();
        open.tracer.record(span);
    }
}

/// What a broken connection is called; not the system's text, which nobody can count by.
fn word_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => "reset",
        io::ErrorKind::TimedOut => "timeout",
        _ => "broken",
    }
}

impl Open {
    /// Of a client the app sends to the server; of a server the app does so to the client.
    fn bytes(&self, kind: Kind) -> (u64, u64) {
        let (sent, received) = (self.copied.sent.get(), self.copied.received.get());
        if kind == Kind::Server { (received, sent) } else { (sent, received) }
    }

    fn count(&self, span: &mut Span) {
        let (to_server, to_client) = self.bytes(span.kind);
        span.set("isthmus.bytes.to_server", to_server);
        span.set("isthmus.bytes.to_client", to_client);
    }

    /// What it carried since the last time.
    fn tell(&self) {
        let borrowed = self.span.borrow();
        let Some(of) = borrowed.as_ref() else { return };
        let (since_ns, server_before, client_before) = self.told.get();
        let (to_server, to_client) = self.bytes(of.kind);
        let Some(mut span) = self.context.child().span(Kind::Internal, "connection goes on", since_ns) else { return };
        span.end_ns = self.tracer.now_ns();
        self.told.set((span.end_ns, to_server, to_client));
        span.attributes.set_all_of(&of.attributes, "isthmus.");
        span.set("isthmus.bytes.to_server", to_server.saturating_sub(server_before));
        span.set("isthmus.bytes.to_client", to_client.saturating_sub(client_before));
        span.set("isthmus.bytes.to_server_so_far", to_server);
        span.set("isthmus.bytes.to_client_so_far", to_client);
        self.tracer.record(span);
    }

    fn stop_records(&self) {
        if let Some(task) = self.records.take() {
            task.abort();
        }
    }
}

impl Drop for Open {
    /// Whoever carried it was dropped with it: its worker ends, or its peer's stream did.
    fn drop(&mut self) {
        self.stop_records();
        if let Some(mut span) = self.span.get_mut().take() {
            span.end_ns = self.tracer.now_ns();
            self.count(&mut span);
            span.set("isthmus.end", "dropped");
            self.tracer.record(span);
        }
    }
}

async fn tell_again(open: Weak<Open>) {
    let mut again = interval_at(Instant::now() + EVERY, EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        let Some(open) = open.upgrade() else { return };
        open.tell();
    }
}

#[cfg(test)]
#[path = "connection_span_test.rs"]
mod connection_span_test;
