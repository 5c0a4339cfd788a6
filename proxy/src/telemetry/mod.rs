//! What the proxy tells about itself and about each hop: counters for Prometheus, spans for OTLP.
//!
//! Sits beside both paths and is called by them; it knows nothing of policy or state. It refuses to slow anything down:
//! counters are per-worker atomics merged at scrape, spans go through one bounded queue that drops and counts what it
//! cannot hold, the access log has a thread and a bounded queue of its own, and trace headers that do not follow the W3C
//! rules are replaced, never passed on.

mod accept;
mod access_line;
mod access_log;
mod attribute;
mod attributes;
mod b3;
mod backlog;
mod cells;
mod collector;
mod connection_span;
mod edge_page;
mod edges;
mod exemplar;
mod exposition;
mod gzip;
mod http_span;
mod keep;
mod kept;
mod link_page;
mod links;
mod live;
mod metrics;
mod names;
mod open;
mod otlp;
mod otlp_encode;
mod otlp_metrics;
#[cfg(test)]
mod otlp_read_test;
mod page;
mod prepared;
mod process_page;
mod protobuf_form;
mod refusal_log;
mod resource;
mod span;
mod text_form;
mod trace_context;
mod trace_state;
mod tracer;
mod wire;

pub use accept::Form as PageForm;
pub use access_line::{Entry as AccessEntry, LineFormat};
pub use access_log::{AccessLog, AccessMode, AccessSettings};
pub use attribute::Shown;
pub use attributes::{Attributes, Value};
pub use collector::{Endpoint as OtlpEndpoint, EndpointError as OtlpEndpointError};
pub use connection_span::ConnectionSpan;
pub use edges::{EdgeOf, Edges, KnownEdge};
pub use exemplar::Exemplar;
pub use http_span::{AskedFor, Brief, Remembered, answered, grpc_answered, known_method};
pub use isthmus_proto::model::B3Headers;
pub use keep::{Fate, Keep, KeptTrace};
pub use kept::KeptSpans;
pub use links::{Links, TcpView, WatchedLink, run_link_samples};
pub use live::{Filter, Live, Looking, Passed, cut};
pub use metrics::{Direction, MeshSide, Metrics};
pub use open::{OpenConnection, OpenStream};
pub use otlp::{one_message, run_exporter};
pub use otlp_metrics::{PushTarget, run_metrics_push};
pub use prepared::Prepared;
pub use refusal_log::RefusalLog;
pub use resource::Described;
pub use span::{Kind, Span, SpanId, Status, TraceId, micros};
pub use trace_context::TraceContext;
pub use tracer::{DropReason, ExportTarget, SpanQueue, Tracer};
