//! What this proxy's own probes find of endpoints without sidecar, for the control plane: on the discovery stream, all of it
//! each time that it changes, at most every [`PAUSE`]. A control plane that does not know the message is told nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::PROBED;
use isthmus_proto::discovery::v1 as wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::probe::Health;
use crate::probe::others::MOST;
use crate::state::ServiceName;

#[cfg(test)]
#[path = "probed_test.rs"]
mod probed_test;

/// Between two tellings on one stream, however often endpoints flap.
const PAUSE: Duration = Duration::from_secs(5);
/// Of a probe's reason, as the proto has it.
const MAX_REASON: usize = 200;

/// One port of one endpoint, of one service.
#[derive(Clone, Debug)]
pub struct Probed {
    pub service: ServiceName,
    pub at: SocketAddr,
    pub health: Health,
    pub since: Instant,
}

pub(super) type Told = watch::Receiver<Arc<[Probed]>>;

/// What one stream was told.
#[derive(Debug)]
pub(super) struct Telling {
    understood: bool,
    news: bool,
    not_before: Instant,
}

impl Telling {
    /// On a stream that has just been opened, towards a control plane that knows these features.
    pub(super) fn new(features: &[String], told: &Told) -> Self {
        let understood = features.iter().any(|feature| feature == PROBED);
        Telling { understood, news: !told.borrow().is_empty(), not_before: Instant::now() }
    }

    /// Until there is something to say that may be said. Losing this future loses nothing.
    pub(super) async fn due(&mut self, told: &mut Told) {
        if !self.understood {
            return std::future::pending().await;
        }
        while !self.news {
            match told.changed().await {
                Ok(()) => self.news = true,
                // Nobody probes any more.
                Err(_) => return std::future::pending().await,
            }
        }
        sleep_until(self.not_before).await;
    }

    /// All that is known now.
    pub(super) fn say(&mut self, told: &mut Told) -> wire::Probed {
        (self.news, self.not_before) = (false, Instant::now() + PAUSE);
        let endpoints = told.borrow_and_update().iter().take(MOST).map(in_words).collect();
        wire::Probed { endpoints }
    }
}

fn in_words(probed: &Probed) -> wire::ProbedEndpoint {
    wire::ProbedEndpoint {
        service: probed.service.to_string(),
        ip: probed.at.ip().to_string(),
        port: probed.at.port().into(),
        passes: probed.health.ready,
        for_ms: u64::try_from(probed.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        reason: probed.health.reason.chars().take(MAX_REASON).collect(),
    }
}
