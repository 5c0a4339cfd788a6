//! The messages of an apply that is too large for one, as one. Refused: more than [`MAX_APPLY`] bytes or [`MAX_DOCUMENTS`]
//! files, and a caller that stops in the middle.

use super::MAX_APPLY;
use isthmus_proto::admin::v1::{ApplyPart, ApplyRequest};
use std::time::Duration;
use tonic::{Status, Streaming};

/// Files of one apply. Each costs some bytes besides its text.
const MAX_DOCUMENTS: usize = 200_000;
/// Between two messages. What was gathered is held for no longer.
const NEXT_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn all(mut parts: Streaming<ApplyPart>) -> Result<ApplyRequest, Status> {
    let mut whole: Option<ApplyRequest> = None;
    let mut size = 0;
    loop {
        let part = tokio::time::timeout(NEXT_WITHIN, parts.message()).await;
        let late = |_| Status::deadline_exceeded("no further part of the apply within 30 s; nothing was changed");
        let Some(part) = part.map_err(late)?? else { break };
        size += part.documents.iter().map(|document| document.yaml.len()).sum::<usize>();
        add(&mut whole, part)?;
        let files = whole.as_ref().map_or(0, |whole| whole.documents.len());
        if size > MAX_APPLY || files > MAX_DOCUMENTS {
            return Err(Status::invalid_argument(format!(
                "more than {} MiB of YAML or {MAX_DOCUMENTS} files in one apply; apply it in several",
                MAX_APPLY >> 20
            )));
        }
    }
    whole.ok_or_else(|| Status::invalid_argument("an apply without a part"))
}

fn add(whole: &mut Option<ApplyRequest>, part: ApplyPart) -> Result<(), Status> {
    let ApplyPart { documents, dry_run, confirm_seconds, continues, namespace, if_revision, prune } = part;
    let first = || ApplyRequest { documents: Vec::new(), dry_run, confirm_seconds, namespace, if_revision, prune };
    let whole = whole.get_or_insert_with(first);
    let mut documents = documents.into_iter();
    if continues {
        let rest = documents.next();
        match (whole.documents.last_mut(), rest) {
            (Some(last), Some(rest)) if last.source == rest.source => last.yaml.push_str(&rest.yaml),
            _ => return Err(Status::invalid_argument("a part goes on from a document that is not there")),
        }
    }
    whole.documents.extend(documents);
    Ok(())
}
