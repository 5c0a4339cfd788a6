//! What the fuzz targets do with their bytes. Part of two programs: libFuzzer's, one per target (`fuzz_targets`), and a test
//! of the workspace (`cli/tests/fuzz_targets.rs`), which gives each of them its seeds and mutations of them in every run.

pub mod accept;
pub mod b3;
pub mod backup;
pub mod chain;
pub mod chunked_body;
pub mod csr;
pub mod dns_answer;
pub mod flow_report;
pub mod grpc_timeout;
pub mod hello;
pub mod hpack;
pub mod id_token;
pub mod internal_headers;
pub mod join_token;
pub mod last_good;
pub mod mesh_frames;
pub mod netlink;
pub mod policy_path;
pub mod policy_yaml;
pub mod preface;
pub mod proxy_protocol;
pub mod request_head;
pub mod response_head;
pub mod signed_document;
pub mod span_report;
pub mod spiffe_id;
pub mod traceparent;

/// A name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("accept", accept::run),
    ("b3", b3::run),
    ("backup", backup::run),
    ("chain", chain::run),
    ("chunked_body", chunked_body::run),
    ("csr", csr::run),
    ("dns_answer", dns_answer::run),
    ("grpc_timeout", grpc_timeout::run),
    ("flow_report", flow_report::run),
    ("hello", hello::run),
    ("hpack", hpack::run),
    ("id_token", id_token::run),
    ("internal_headers", internal_headers::run),
    ("join_token", join_token::run),
    ("last_good", last_good::run),
    ("mesh_frames", mesh_frames::run),
    ("netlink", netlink::run),
    ("policy_path", policy_path::run),
    ("policy_yaml", policy_yaml::run),
    ("preface", preface::run),
    ("proxy_protocol", proxy_protocol::run),
    ("request_head", request_head::run),
    ("response_head", response_head::run),
    ("signed_document", signed_document::run),
    ("span_report", span_report::run),
    ("spiffe_id", spiffe_id::run),
    ("traceparent", traceparent::run),
];
