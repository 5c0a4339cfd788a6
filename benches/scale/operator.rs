//! The operator's side: applies, and tokens.

use std::path::Path;

use isthmus_proto::admin::v1::admin_client::AdminClient;
use isthmus_proto::admin::v1::{ApplyPart, ApplyRequest, ApplyResponse, CreateJoinTokenRequest, Document};
use tonic::transport::Channel;

use crate::tls;

/// The answer to a large apply names every resource.
const MAX_ANSWER: usize = 256 << 20;

pub(crate) struct Operator(AdminClient<Channel>);

impl Operator {
    pub(crate) async fn connect(file: &Path) -> Result<Self, String> {
        Ok(Self(AdminClient::new(tls::operator(file).await?).max_decoding_message_size(MAX_ANSWER)))
    }

    /// All parts as one change; its revision.
    pub(crate) async fn apply_all(&mut self, parts: Vec<ApplyPart>) -> Result<u64, String> {
        let answer = self.0.apply_stream(tokio_stream::iter(parts)).await.map_err(|status| status.to_string())?;
        taken(answer.into_inner())
    }

    pub(crate) async fn apply(&mut self, yaml: String) -> Result<u64, String> {
        let documents = vec![Document { source: "bench".to_owned(), yaml }];
        let request = ApplyRequest { documents, ..ApplyRequest::default() };
        let answer = self.0.apply(request).await.map_err(|status| status.to_string())?;
        taken(answer.into_inner())
    }

    pub(crate) async fn token(&mut self, workload: String) -> Result<String, String> {
        let request = CreateJoinTokenRequest { workload, ttl_seconds: 600 };
        let answer = self.0.create_join_token(request).await.map_err(|status| status.to_string())?;
        Ok(answer.into_inner().token)
    }
}

fn taken(answer: ApplyResponse) -> Result<u64, String> {
    match answer.problems.first() {
        None => Ok(answer.revision),
        Some(problem) => Err(format!("{} {}: {}", problem.source, problem.field, problem.reason)),
    }
}
