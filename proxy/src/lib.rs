//! The Isthmus data plane. Read `inbound` and `outbound` first: they run in packet order.
//!
//! Building blocks (`listen detect tls tcp http dns`) know nothing of policy or state; the two paths use blocks and read
//! `state`; only `control` writes `state`; only `app` knows everybody.

pub mod admin;
pub mod app;
pub mod config;
pub mod control;
pub mod detect;
pub mod dns;
pub mod flows;
pub mod http;
pub mod inbound;
pub mod listen;
pub mod outbound;
pub mod probe;
pub mod reason;
pub mod redirect;
pub mod state;
pub mod tcp;
pub mod telemetry;
pub mod tls;

pub use app::{Args, Embedding, Listening, RunError, return_idle_memory, run, run_blocking, run_embedded};
pub use config::Config;
