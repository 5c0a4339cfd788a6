//! Writes the last good snapshot down, as often as it changes and no oftener than a disk bears. The stream never waits for
//! it: what cannot be written is said, and traffic flows.

use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::TrustBundle;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::view::{self, Key};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::files::StateFiles;
use super::last_good::{FILE, Holding, Owner};
use super::{Context, Start};
use crate::state::standing::{Kept, Standing};

/// Between two writes; bursts of changes are one write.
const PAUSE: Duration = Duration::from_secs(1);
/// A disk that is slow gets ten times as long a pause as it takes.
const PART: u32 = 10;

/// What this process has been sent, and what of it is on disk.
pub(super) struct Keeper {
    files: Arc<StateFiles>,
    owner: Owner,
    present: Holding,
    /// What a new stream has sent so far.
    aside: Option<Holding>,
    changed: bool,
    not_before: Instant,
    writing: Option<Writing>,
    failed: bool,
}

struct Writing {
    task: JoinHandle<Result<u64, String>>,
    began: Instant,
}

impl Keeper {
    /// None where nothing is to be kept.
    pub(super) fn new(start: &Start, owner: Owner) -> Option<Keeper> {
        let files = Arc::clone(start.keeps_last_good()?);
        let (present, not_before) = (Holding::default(), Instant::now());
        Some(Keeper { files, owner, present, aside: None, changed: false, not_before, writing: None, failed: false })
    }

    /// A new stream sends everything anew.
    pub(super) fn begin(&mut self) {
        self.aside = Some(Holding::default());
    }

    /// After the delta was applied.
    pub(super) fn take(&mut self, delta: &wire::RawDelta, resources: &[wire::Resource]) {
        let keys: Vec<Option<Key>> = resources.iter().map(|one| one.key.as_ref().map(view::key)).collect();
        self.aside.as_mut().unwrap_or(&mut self.present).apply(delta, keys);
        if delta.first_sync_complete
            && let Some(whole) = self.aside.take()
        {
            self.present = whole;
        }
        self.changed |= self.aside.is_none();
    }

    /// Does what is next, as long as it is polled; to be dropped and called again at will.
    pub(super) async fn work(&mut self, context: &Context) {
        if let Some(writing) = &mut self.writing {
            let outcome = (&mut writing.task).await.unwrap_or_else(|e| Err(e.to_string()));
            self.not_before = Instant::now() + PAUSE.max(writing.began.elapsed() * PART);
            self.writing = None;
            self.note(context.start.standing(), outcome);
        } else if self.changed {
            sleep_until(self.not_before).await;
            self.changed = false;
            let (files, owner, holding) = (Arc::clone(&self.files), self.owner.clone(), self.present.clone());
            let bundle = context.identities.bundle();
            let task = tokio::task::spawn_blocking(move || write(&files, &owner, &holding, &bundle));
            self.writing = Some(Writing { task, began: Instant::now() });
        } else {
            std::future::pending().await
        }
    }

    fn note(&mut self, standing: &Standing, outcome: Result<u64, String>) {
        let failed = outcome.is_err();
        match &outcome {
            Err(why) if !self.failed => warn!("{FILE}: not written, a restart would need the control plane: {why}"),
            Ok(version) if self.failed => info!("{FILE}: version {version} is on disk again"),
            _ => {}
        }
        // Tried again although nothing has changed: a disk that was full has room some time.
        self.changed |= failed;
        if failed {
            self.not_before = self.not_before.max(Instant::now() + PAUSE * 10);
        }
        self.failed = failed;
        standing.note(|facts| facts.kept = outcome.map_or_else(Kept::Failed, Kept::Version));
    }
}

fn write(files: &StateFiles, owner: &Owner, holding: &Holding, bundle: &TrustBundle) -> Result<u64, String> {
    holding.check(owner, bundle).map_err(|e| e.to_string())?;
    // The number goes last: were it first, a crash between the two would make the file look older than it may be.
    files.write(FILE, &holding.write(owner))?;
    files.write_seen(holding.version)?;
    Ok(holding.version)
}
