//! What the apps of the caller do. An error in a load makes its turn worthless and is told as such.

pub(crate) mod bulk;
pub(crate) mod grpc;
pub(crate) mod hold;
pub(crate) mod http;
pub(crate) mod pace;
pub(crate) mod rate;
pub(crate) mod steady;
pub(crate) mod wrk;

/// Half and 99 % of the times were below these; microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Percentiles {
    /// `None` of nothing.
    pub(crate) fn of(mut microseconds: Vec<f64>) -> Option<Self> {
        microseconds.sort_by(f64::total_cmp);
        let last = microseconds.len().checked_sub(1)?;
        let at = |share: f64| microseconds[((microseconds.len() as f64 * share) as usize).min(last)];
        Some(Self { p50_us: at(0.5), p99_us: at(0.99) })
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod load_test;
