//! How endpoints outside of the mesh are probed by whoever uses them.

use std::time::Duration;

use super::{MAX_TEXT, ModelError};
use crate::discovery::v1 as wire;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    pub how: Asking,
    /// From one question to the next.
    pub interval: Duration,
    pub timeout: Duration,
    /// So many failures in a row: no traffic.
    pub failures: u32,
    /// So many successes in a row: traffic again.
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asking {
    Tcp,
    /// GET of this path.
    Http(String),
    /// gRPC's health service, about this service; empty: the server's.
    Grpc(String),
}

/// More often than this is no question but load, since every proxy that uses the endpoint asks.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// Answers in a row.
pub const MOST_IN_A_ROW: u32 = 100;

impl HealthCheck {
    /// A way of asking from the future is none: the endpoints are used without being asked.
    pub(super) fn read(h: wire::HealthCheck) -> Result<Option<Self>, ModelError> {
        use wire::health_check::How;
        let how = match h.how {
            None => return Ok(None),
            Some(How::Tcp(_)) => Asking::Tcp,
            Some(How::HttpPath(path)) if path.starts_with('/') => Asking::Http(plain("http_path", path)?),
            Some(How::HttpPath(_)) => return Err(ModelError::new("http_path", "does not begin with /")),
            Some(How::GrpcService(service)) => Asking::Grpc(plain("grpc_service", service)?),
        };
        let interval = Duration::from_millis(h.interval_ms.into());
        let timeout = Duration::from_millis(h.timeout_ms.into());
        if !(SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
            return Err(ModelError::new("interval_ms", "not between a second and an hour"));
        }
        if timeout.is_zero() || timeout > interval {
            return Err(ModelError::new("timeout_ms", "zero, or longer than the interval"));
        }
        let in_a_row = |field, count| match count {
            1..=MOST_IN_A_ROW => Ok(count),
            _ => Err(ModelError::new(field, format!("not between 1 and {MOST_IN_A_ROW}"))),
        };
        let failures = in_a_row("failures", h.failures)?;
        let successes = in_a_row("successes", h.successes)?;
        Ok(Some(Self { how, interval, timeout, failures, successes }))
    }
}

/// It is sent as it is: what could end a line or a word in HTTP is refused.
fn plain(field: &str, text: String) -> Result<String, ModelError> {
    match text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text),
        false => Err(ModelError::new(field, "too long, or holds something else than printable ASCII without blanks")),
    }
}

impl From<HealthCheck> for wire::HealthCheck {
    fn from(h: HealthCheck) -> Self {
        use wire::health_check::How;
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self {
            how: Some(match h.how {
                Asking::Tcp => How::Tcp(true),
                Asking::Http(path) => How::HttpPath(path),
                Asking::Grpc(service) => How::GrpcService(service),
            }),
            interval_ms: ms(h.interval),
            timeout_ms: ms(h.timeout),
            failures: h.failures,
            successes: h.successes,
        }
    }
}
