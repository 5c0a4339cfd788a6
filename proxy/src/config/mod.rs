//! What the proxy is told at start: one YAML file and, for the join token, the environment. Everything else comes from
//! the control plane.
//!
//! Refuses unknown fields, and names every fault with file, line, column and field at once, so that a file is put right
//! in one go.

mod access_log;
mod admin;
mod capture;
mod enrol;
mod error;
mod field;
mod file;
mod last_good;
mod listen;
mod log;

pub use admin::Admin;
pub use capture::{Capture, InboundCapture, Mode, OnStop, UdpCapture};
pub use enrol::{Enrol, EnrolBy};
pub use error::{ConfigError, Problem};
pub use file::Config;
pub use last_good::{Keep, LastGood, Sealing};
pub use listen::Listen;
pub use log::{Format, Log, filter};

#[cfg(test)]
#[path = "config_test.rs"]
mod config_test;
