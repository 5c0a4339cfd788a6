//! Serves the last good snapshot of an earlier process, where no control plane is found at the start; until one is, or
//! until the snapshot is too old.

use std::time::Duration;

use isthmus_certs::Clock as _;
use isthmus_proto::discovery::v1 as wire;
use tokio::time::timeout;
use tracing::{error, warn};

use super::last_good::Restored;
use super::sync::Sync;
use super::{Context, revoked, stream};
use crate::state::Mesh;
use crate::state::standing::Serving;

/// A control plane that is there has answered within this; what it says is newer. One that is not there is known by then,
/// or soon enough for who waits for this proxy.
const WAIT: Duration = Duration::from_millis(500);
/// A wall clock can be set, so the age is looked at again this often.
const LOOK: Duration = Duration::from_secs(10);

pub(super) async fn serve(context: &Context, last_good: Option<Restored>) {
    let Some(Restored { delta, addresses, signed_ms }) = last_good else { return };
    let mut published = context.state.subscribe();
    let told = async {
        tokio::select! {
            _ = published.changed() => {}
            () = context.failed.notified() => {}
        }
    };
    let _ = timeout(WAIT, told).await;
    let Some(mesh) = restore(context, delta, addresses) else { return };
    let until_ms = signed_ms.saturating_add(i64::try_from(context.start.max_stale().as_millis()).unwrap_or(i64::MAX));
    let (version, left) = (mesh.version, until_ms - now_ms(context));
    warn!(version, "no control plane yet: serving the last good snapshot, for {} s more at most", left / 1_000);
    context.start.standing().note(|facts| facts.serving = Serving::LastGood { signed_ms, until_ms });
    context.metrics.serving_last_good(true);
    context.metrics.control_version(version);
    context
        .metrics
        .control_behind(Duration::from_millis(now_ms(context).saturating_sub(signed_ms).max(0).unsigned_abs()));
    context.state.publish(mesh);
    until_too_old(context, until_ms).await;
    context.metrics.serving_last_good(false);
}

/// None: the control plane was quicker.
fn restore(context: &Context, delta: wire::Delta, addresses: Vec<std::net::IpAddr>) -> Option<Mesh> {
    if context.state.snapshot().is_ready() {
        return None;
    }
    let mut sync = Sync::new(&context.workload, context.identities.trust_domain());
    sync.used(addresses);
    sync.begin();
    let mesh = sync.take(delta, &Mesh::unknown()).publish?;
    if let Err(why) = stream::trust_roots(context, &mesh) {
        error!("the last good snapshot is not taken: {why}");
        return None;
    }
    revoked::take(context, &mesh);
    Some(mesh)
}

/// Ends when the control plane has spoken, or when everything is refused because it did not.
async fn until_too_old(context: &Context, until_ms: i64) {
    let mut published = context.state.subscribe();
    loop {
        if !matches!(context.start.standing().facts().serving, Serving::LastGood { .. }) {
            return;
        }
        let left = until_ms - now_ms(context);
        if left <= 0 {
            error!("the last good snapshot is too old now and no control plane was reached: everything is refused");
            context.start.standing().note(|facts| facts.serving = Serving::TooOld);
            return context.state.publish(Mesh::unknown());
        }
        let wait = Duration::from_millis(left.unsigned_abs()).min(LOOK);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = published.changed() => {}
        }
    }
}

fn now_ms(context: &Context) -> i64 {
    context.identities.clock().now_ms()
}
