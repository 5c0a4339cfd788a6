//! Follows the snapshot and the identity, and lets what hangs on them know: where spans go, what the metrics say, which
//! inbound ports are captured.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::Subscription;
use isthmus_proto::model::{KeepSpans, OtlpEndpoint};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::redirect::CaptureError;
use crate::state::Mesh;
use crate::telemetry::{Described, ExportTarget, Keep, PushTarget};

use super::captured::Captured;
use super::{Listening, Parts};

/// A certificate expires without anybody telling.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Follower {
    parts: Arc<Parts>,
    captured: Option<Captured>,
    published: watch::Receiver<u64>,
    identity: watch::Receiver<u64>,
    _identity_hook: Subscription,
    was_ready: bool,
    /// When the bypass that was told of ends.
    bypassed: Option<i64>,
}

impl Follower {
    pub(super) fn new(parts: Arc<Parts>, listening: Listening) -> Result<Follower, CaptureError> {
        let captured = Captured::open(&parts, listening)?;
        let (changed, identity) = watch::channel(0);
        let hook = parts.identities.subscribe(move |generation| {
            changed.send_replace(generation);
        });
        Ok(Follower {
            published: parts.state.subscribe(),
            identity,
            _identity_hook: hook,
            was_ready: false,
            bypassed: None,
            captured,
            parts,
        })
    }

    /// Looks once. What cannot be captured stays as it was.
    pub(super) fn look(&mut self) -> Result<(), CaptureError> {
        let Parts { metrics, tracer, identities, state, .. } = &*self.parts;
        let mesh = state.snapshot();
        let target = export_target(&mesh, &self.parts.described);
        metrics.describe(&described(&mesh));
        metrics.push_to(push_target(&mesh, &target));
        tracer.configure(target);
        let end = identities.current().map_or(0, |identity| identity.not_after.as_secs());
        metrics.certificate_expiry(i64::try_from(end).unwrap_or(i64::MAX));
        if let Some(captured) = &mut self.captured {
            captured.look(&mesh)?;
        }
        self.tell_readiness(mesh.version);
        self.tell_bypass(&mesh);
        Ok(())
    }

    /// Break-glass is no secret on the machine that it opens.
    fn tell_bypass(&mut self, mesh: &Mesh) {
        let until = mesh.inbound().next_bypass_end(self.parts.identities.clock().now_ms());
        match (std::mem::replace(&mut self.bypassed, until), until) {
            (before, Some(until)) if before != Some(until) => {
                tracing::warn!(until_unix_ms = until, "bypass: refusals by policy are recorded and not carried out");
            }
            (Some(_), None) => tracing::warn!("the bypass is over: refusals are carried out as policy says"),
            _ => {}
        }
    }

    fn tell_readiness(&mut self, version: u64) {
        let answer = self.parts.readiness.check();
        self.parts.metrics.ready(answer.is_ok());
        let was = std::mem::replace(&mut self.was_ready, answer.is_ok());
        match answer {
            Ok(()) if !was => {
                let identity = self.parts.identities.current();
                let identity = identity.as_ref().map_or("", |identity| identity.id.as_str());
                tracing::info!(identity, version, "ready");
            }
            Err((reason, why)) if was => tracing::warn!(reason = reason.word(), "ready no more: {why}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Looks at each change, for ever.
    pub(super) async fn follow(&mut self) {
        let mut again = interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = self.published.changed() => {}
                Ok(()) = self.identity.changed() => {}
                () = disturbed(&mut self.captured) => {}
                _ = again.tick() => {}
                () = bypass_ends(&self.parts) => {}
            }
            if let Err(error) = self.look() {
                tracing::error!(%error, "capture could not be brought up to date; it stays as it was");
            }
        }
    }

    /// Takes capture away: nothing new comes.
    pub(super) fn end(mut self, by_hand: bool) {
        self.parts.metrics.ready(false);
        if let Some(captured) = self.captured.take() {
            captured.end(by_hand);
        }
    }
}

/// Resolves when a bypass ends by itself, so that it is told at once. What it let in is asked again by `inbound::live`.
async fn bypass_ends(parts: &Parts) {
    let clock = parts.identities.clock();
    let Some(until) = parts.state.snapshot().inbound().next_bypass_end(clock.now_ms()) else {
        return std::future::pending().await;
    };
    let left = until.saturating_sub(clock.now_ms());
    // In pieces, so that a clock that is set is followed.
    tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(LOOK_AGAIN)).await;
    if clock.now_ms() < until {
        std::future::pending().await
    }
}

/// Ends when somebody may have changed the capture rules.
async fn disturbed(captured: &mut Option<Captured>) {
    match captured {
        Some(captured) => captured.disturbed().await,
        None => std::future::pending().await,
    }
}

/// To the collector of the spans, where the counters go there too.
fn push_target(mesh: &Mesh, spans: &ExportTarget) -> Option<PushTarget> {
    let (every, endpoint) = (mesh.telemetry().metrics_every?, spans.endpoint.clone()?);
    Some(PushTarget { endpoint, every, resource: spans.resource.clone() })
}

fn export_target(mesh: &Mesh, described: &Described) -> ExportTarget {
    let telemetry = mesh.telemetry();
    let endpoint = telemetry.otlp.as_ref().and_then(|endpoint| {
        let text = match endpoint {
            OtlpEndpoint::Http(uri) => uri.clone(),
            OtlpEndpoint::Unix(path) => format!("unix:{path}"),
        };
        text.parse().inspect_err(|error| tracing::warn!(%error, "spans are not exported")).ok()
    });
    let KeepSpans { errors, denied, slower_than } = telemetry.keep;
    let workload = mesh.inbound().workload.as_ref().map(|name| (name.namespace(), name.name()));
    let resource = described.of_workload(workload, mesh.site().map(|site| site.as_str()));
    let keep = Keep { errors, denied, slower_than };
    ExportTarget { endpoint, sampling: telemetry.sampling_ratio, keep, resource }
}

/// Of the proxy's metrics.
fn described(mesh: &Mesh) -> Vec<(&'static str, String)> {
    let workload = mesh.inbound().workload.as_ref().map(|workload| ("service.name", workload.to_string()));
    let site = mesh.site().map(|site| ("isthmus.site", site.to_string()));
    workload.into_iter().chain(site).collect()
}
