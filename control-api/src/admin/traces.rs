//! An operator looks at the last traces. Each span is shown to whom its workload may be shown, so that a trace through
//! several tenants has gaps, and says so.

use super::{Operators, operator};
use crate::operators::Caller;
use crate::traces::status_of;
use crate::traces::store::{Trace, TraceId};
use crate::validate::resource::Spec;
use isthmus_proto::admin::v1::traces_server::Traces;
use isthmus_proto::admin::v1::{
    GetTraceRequest, GetTraceResponse, KeptSpan, ListTracesRequest, ListTracesResponse, TraceSummary,
};
use std::collections::HashMap;
use tonic::{Request, Response, Status};

const USUAL: usize = 20;
const MOST: usize = 1_000;

#[tonic::async_trait]
impl Traces for Operators {
    async fn list(&self, request: Request<ListTracesRequest>) -> Result<Response<ListTracesResponse>, Status> {
        let caller = operator(&request)?;
        let ListTracesRequest { of, most, failed } = request.into_inner();
        let most = if most == 0 { USUAL } else { usize::try_from(most).unwrap_or(MOST).min(MOST) };
        let all = self.traces.all(self.ledger.clock().now_ms());
        let mut traces: Vec<_> = all.iter().filter_map(|(id, trace)| summary(&caller, &of, id, trace)).collect();
        traces.retain(|trace| trace.failed || !failed);
        traces.sort_by_key(|trace| std::cmp::Reverse((trace.failed, trace.duration_us)));
        traces.truncate(most);
        let collector = self.ledger.world().mesh.otlp.clone();
        Ok(Response::new(ListTracesResponse { traces, collector, given_up: self.traces.given_up() }))
    }

    async fn get(&self, request: Request<GetTraceRequest>) -> Result<Response<GetTraceResponse>, Status> {
        let caller = operator(&request)?;
        let asked = request.into_inner().trace_id;
        let found = self.traces.find(&asked, self.ledger.clock().now_ms());
        let trace = found.map_err(|refused| status_of(refused, &asked))?;
        let of_all = trace.spans.len();
        let mut seen: Vec<_> = trace.spans.into_iter().filter(|(of, _)| caller.sees_workload(of)).collect();
        if seen.is_empty() {
            // As if it were not there: that it is would be news of another tenant.
            return Err(status_of(crate::traces::store::Refused::Unknown, &asked));
        }
        seen.sort_by_key(|(_, span)| span.start_unix_ns);
        let hidden = u32::try_from(of_all - seen.len()).unwrap_or(u32::MAX);
        let sites = self.sites();
        let spans = seen.into_iter().map(|(workload, span)| KeptSpan {
            site: sites.get(&*workload).cloned().unwrap_or_default(),
            workload: workload.to_string(),
            span: Some((*span).clone()),
        });
        Ok(Response::new(GetTraceResponse { spans: spans.collect(), hidden }))
    }
}

impl Operators {
    /// By workload.
    fn sites(&self) -> HashMap<String, String> {
        let world = self.ledger.world();
        let workloads = world.resources.values().filter_map(|resource| match &resource.spec {
            Spec::Workload(workload) => {
                Some((format!("{}/{}", resource.key.namespace, resource.key.name), workload.site.to_string()))
            }
            _ => None,
        });
        workloads.collect()
    }
}

/// Of the spans that the caller may see; nothing where there are none, or none of what was asked for.
fn summary(caller: &Caller, of: &str, id: &TraceId, trace: &Trace) -> Option<TraceSummary> {
    let seen: Vec<_> = trace.spans.iter().filter(|(workload, _)| caller.sees_workload(workload)).collect();
    let concerns = |workload: &str| {
        let namespace = workload.split_once('/').map_or(workload, |(namespace, _)| namespace);
        of.is_empty() || of == workload || of == namespace
    };
    if !seen.iter().any(|(workload, _)| concerns(workload)) {
        return None;
    }
    // One without a parent begins it; else the one that lasted longest holds the others.
    let lasted = |span: &isthmus_proto::traces::v1::Span| span.end_unix_ns - span.start_unix_ns;
    let (workload, first) = seen.iter().max_by_key(|(_, span)| (span.parent_id.is_empty(), lasted(span)))?;
    let error = seen.iter().find(|(_, span)| span.failed).map(|(_, span)| span.error.clone());
    Some(TraceSummary {
        trace_id: format!("{:032x}", u128::from_be_bytes(*id)),
        at_unix_ms: trace.first_ms,
        duration_us: lasted(first) / 1_000,
        spans: u32::try_from(seen.len()).unwrap_or(u32::MAX),
        failed: error.is_some(),
        error: error.unwrap_or_default(),
        workload: workload.to_string(),
        first: Some((**first).clone()),
    })
}
