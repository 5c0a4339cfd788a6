//! What spans see of HTTP on its way, the same for the sidecar of the caller and for that of the callee: how an answer ends,
//! what a request changes to, and messages that were refused before they were requests.

use std::io;
use std::rc::Rc;

use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use isthmus_http2::GRPC_STATUS;

use super::Answer;
use super::body::{Body, BodyError, Seen, Watch};
use super::followed::{End, Followed, Remembered};
use crate::reason::Reason;
use crate::tcp::Copied;
use crate::telemetry::{ConnectionSpan, Fate, Kind, Shown, Span, TraceContext, Tracer, answered, grpc_answered};

const BODY_SIZE: &str = "http.response.body.size";

/// Whether the head of an answer says that it failed, beside its status: a reset, or a gRPC code.
pub fn failed(answer: &Answer, grpc: bool) -> bool {
    answer.reset.is_some() || grpc_code(answer.response.headers(), grpc).is_some_and(|code| code != "0")
}

/// Whether it can still fail after its head.
pub fn is_open(answer: &Answer, grpc: bool) -> bool {
    answer.reset.is_none() && rest(answer.response.body(), grpc).is_none()
}

/// How many bytes follow a head, where it is known already how they end. What a gRPC call came to is told behind them.
fn rest(body: &Body, grpc: bool) -> Option<u64> {
    if grpc && !body.is_empty() { None } else { body.here() }
}

/// From a head that is all there is, or from trailers.
fn grpc_code(headers: &HeaderMap, grpc: bool) -> Option<&HeaderValue> {
    if grpc { headers.get(GRPC_STATUS) } else { None }
}

/// A request's span, which ends with the head of its answer, has that. It comes back where it ends later, with the answer's
/// body; `changed`: what follows is no body but a connection of its own. `reason`: of a refusal.
pub fn with_head(
    tracer: &Tracer,
    mut span: Span,
    answer: &Answer,
    (reason, grpc, changed): (Option<&'static str>, bool, bool),
) -> Option<Span> {
    answered(&mut span, answer.response.status(), reason);
    if let Some(code) = grpc_code(answer.response.headers(), grpc) {
        grpc_answered(&mut span, code.as_bytes());
    }
    if let Some(reset) = answer.reset {
        span.set("isthmus.reset", format_args!("{reset:?}"));
        span.fail("reset");
    }
    if answer.reset.is_none() && !changed {
        let Some(bytes) = rest(answer.response.body(), grpc) else { return Some(span) };
        span.set(BODY_SIZE, bytes);
    }
    tracer.record(span);
    None
}

/// From here on the answer's body is followed.
pub fn follow<R: Remembered>(followed: &Rc<Followed<R>>, answer: &mut Answer, of: R) {
    let body = std::mem::take(answer.response.body_mut());
    *answer.response.body_mut() = followed.follow(body, of);
}

/// What the end of an answer is told to: the span that is recorded in any case, or all that would be told of a request
/// that nobody had decided to record.
pub enum Open<R> {
    Recorded(Box<Span>),
    Perhaps(R),
}

impl<R> Open<R> {
    /// The span, where there is one in the end.
    pub fn span(self, of: impl FnOnce(R) -> Option<Span>) -> Option<Span> {
        match self {
            Open::Recorded(span) => Some(*span),
            Open::Perhaps(request) => of(request),
        }
    }
}

/// As far as the end of an answer decides whether its request is kept. Whoever leaves inside an answer had one: subscriptions
/// and downloads end like that, and it is no failure.
pub fn fate_of(end: End<'_>, status: u16, grpc: bool) -> Fate {
    let fate = Fate { status, ..Fate::default() };
    match end {
        End::Whole(trailers) => {
            let code = trailers.and_then(|trailers| grpc_code(trailers, grpc));
            Fate { failed: code.is_some_and(|code| code != "0"), ..fate }
        }
        End::Broken(BodyError::Refused(reason)) => Fate { reason: Some(*reason), ..fate },
        End::Broken(_) => Fate { failed: true, ..fate },
        End::Left => Fate::default(),
    }
}

/// A request's span ends with its answer's body, of so many bytes. `grpc`: its trailers say how the call went.
pub fn ended(tracer: &Tracer, mut span: Span, end: End<'_>, (grpc, bytes): (bool, u64)) {
    span.set(BODY_SIZE, bytes);
    match end {
        End::Whole(trailers) => {
            if let Some(code) = trailers.and_then(|trailers| grpc_code(trailers, grpc)) {
                grpc_answered(&mut span, code.as_bytes());
            }
        }
        End::Broken(error) => broke(&mut span, error),
        End::Left => {
            let word = Reason::CallerGone.word();
            span.set("isthmus.reason", word);
            // Of a server's spans it is none, as gRPC's CANCELLED is none.
            if span.kind != Kind::Server {
                span.fail(word);
            }
        }
    }
    span.end_ns = tracer.now_ns();
    tracer.record(span);
}

fn broke(span: &mut Span, error: &BodyError) {
    let word = match error {
        BodyError::Refused(reason) => {
            span.set("isthmus.reason", reason.word());
            reason.word()
        }
        BodyError::Http2(error) if error.is_ours() => Reason::MalformedResponse.word(),
        BodyError::Http2(error) if error.is_reset() => {
            span.set_some("isthmus.reset", error.reason().map(|reason| Shown(format!("{reason:?}"))));
            "reset"
        }
        BodyError::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset",
        BodyError::Chunk(_) | BodyError::Length => Reason::MalformedResponse.word(),
        BodyError::Http2(_) | BodyError::Broken(_) | BodyError::ReceiverLost => "broken",
        BodyError::ReceiverGone => Reason::CallerGone.word(),
    };
    span.fail(word);
}

/// A request's span, where whoever asked left before there was an answer.
pub fn unanswered(tracer: &Tracer, mut span: Span) {
    let word = Reason::CallerGone.word();
    span.set("isthmus.reason", word);
    span.fail(word);
    tracer.record(span);
}

/// Where the span of what ended like this stands: in its own trace where that is recorded, else where it is kept, with the
/// word for why.
pub fn recorded_or_kept(
    tracer: &Tracer,
    context: &TraceContext,
    fate: Fate,
) -> Option<(TraceContext, Option<&'static str>)> {
    if context.sampled {
        return Some((context.clone(), None));
    }
    tracer.keeps(fate).map(|why| (context.kept(), Some(why)))
}

/// What a request asks for in place of HTTP: `upgrade` of one in HTTP/1, extended CONNECT (RFC 8441) of one in HTTP/2.
pub fn asked_to_change<'a>(upgrade: Option<&'a Protocol>, request: &'a Request<Body>) -> Option<&'a Protocol> {
    upgrade.or_else(|| request.extensions().get())
}

/// Whether an answer with this status agrees to that. HTTP/2 has no 101 (RFC 8441 §5).
pub fn agrees_to_change(status: StatusCode, http2: bool) -> bool {
    if http2 { status.is_success() } else { status == StatusCode::SWITCHING_PROTOCOLS }
}

/// One direction of a connection that changed its protocol; `sent`: the one that its span counts as sent.
pub fn counted(body: Body, span: &ConnectionSpan, sent: bool) -> Body {
    if !span.is_sampled() {
        return body;
    }
    let (span, own) = (span.clone(), Copied::default());
    body.watched(Watch::new(move |seen| match seen {
        Seen::Bytes(count) => {
            let copied = span.copied(&own);
            let cell = if sent { &copied.sent } else { &copied.received };
            cell.set(cell.get() + count as u64);
        }
        Seen::Whole(_) => span.half_closed(sent),
        Seen::Broken(error) => span.end("reset", Some(error.reason().word())),
    }))
}

/// A message that was refused before it was a request: nothing is known of it but where it came and how it was answered.
/// Whose trace it is of cannot be known either: `root` is one of its own.
pub fn unread(tracer: &Tracer, root: &TraceContext, kind: Kind, reason: Reason, describe: impl FnOnce(&mut Span)) {
    let fate = Fate { status: reason.status(), reason: Some(reason), ..Fate::default() };
    let Some((context, kept)) = recorded_or_kept(tracer, root, fate) else { return };
    let now = tracer.now_ns();
    let Some(mut span) = context.span(kind, "HTTP", now) else { return };
    span.set("isthmus.hop", if kind == Kind::Server { "inbound" } else { "outbound" });
    span.set_some("isthmus.kept", kept);
    span.set("http.request.method", "_OTHER");
    describe(&mut span);
    span.set("isthmus.decision", reason.word());
    answered(&mut span, StatusCode::from_u16(reason.status()).unwrap_or_default(), Some(reason.word()));
    span.end_ns = tracer.now_ns();
    tracer.record(span);
}
