//! Answers about the past: recorded decisions of a selection, put together over the hours, with what is missing.

use super::store::{FlowStore, first_seen, join, same};
use crate::index::Index;
use crate::store::StoreError;
use isthmus_proto::admin::v1::{Coverage, ListFlowsRequest, RecordedFlow};
use isthmus_proto::flows::v1 as wire;
use std::collections::HashMap;

/// Ways of one answer: at about 300 bytes each, 30 MB while it is made.
const MOST: usize = 100_000;
/// Names that a message about gaps lists.
const MOST_SILENT: usize = 100;

/// The flows, oldest first, and what they cover.
pub fn list(
    store: &FlowStore,
    index: &Index,
    request: &ListFlowsRequest,
    now_ms: i64,
    sees: impl Fn(&str) -> bool,
) -> Result<(Coverage, Vec<RecordedFlow>), StoreError> {
    let mut oldest_unix_ms = 0;
    store.each_flow(0, |record| {
        oldest_unix_ms = first_seen(&record);
        false
    })?;
    let (_, _, evicted) = store.size()?;
    let mut coverage = Coverage { now_unix_ms: now_ms, oldest_unix_ms, evicted, ..Coverage::default() };
    let mut found: HashMap<[u8; 16], RecordedFlow> = HashMap::new();
    store.each_flow(request.since_unix_ms, |mut record| {
        if !sees(&record.workload) || !selected(index, request, &mut record) {
            return true;
        }
        let full = found.len() >= MOST;
        match found.get_mut(&same(&record)) {
            Some(held) => join(held, &record),
            None if full => coverage.truncated = true,
            None => drop(found.insert(same(&record), record)),
        }
        true
    })?;
    silence(store, index, request, &mut coverage, &sees)?;
    let mut flows: Vec<_> = found.into_values().collect();
    flows.sort_by(|a, b| (first_seen(a), &a.workload).cmp(&(first_seen(b), &b.workload)));
    Ok((coverage, flows))
}

/// Also says which services declare the port now.
fn selected(index: &Index, request: &ListFlowsRequest, record: &mut RecordedFlow) -> bool {
    if !of_namespace(&record.workload, &request.namespace) {
        return false;
    }
    let service = format!("{}/{}", request.namespace, request.service);
    let Some(flow) = &record.flow else {
        let of_service = request.service.is_empty() || index.declares(&record.workload, &service);
        return request.departures && record.departure.is_some() && of_service;
    };
    if request.plain_only && flow.transport() == wire::Transport::Mesh {
        return false;
    }
    record.services = index.services_of_port(&record.workload, flow.port).to_vec();
    request.service.is_empty() || record.services.contains(&service)
}

fn of_namespace(workload: &str, namespace: &str) -> bool {
    namespace.is_empty() || workload.split_once('/').is_some_and(|(own, _)| own == namespace)
}

fn silence(
    store: &FlowStore,
    index: &Index,
    request: &ListFlowsRequest,
    coverage: &mut Coverage,
    sees: &dyn Fn(&str) -> bool,
) -> Result<(), StoreError> {
    let name = format!("{}/{}", request.namespace, request.service);
    let mut workloads: Vec<&String> = index
        .workload_names()
        .filter(|workload| sees(workload) && of_namespace(workload, &request.namespace))
        .filter(|workload| request.service.is_empty() || index.declares(workload, &name))
        .collect();
    workloads.sort();
    for workload in workloads {
        let reported = store.reported(workload)?;
        coverage.dropped = coverage.dropped.saturating_add(reported.map_or(0, |reported| reported.dropped));
        let silent = reported.is_none_or(|reported| reported.last_ms < request.since_unix_ms);
        if silent && coverage.silent.len() < MOST_SILENT {
            coverage.silent.push(workload.clone());
        }
    }
    Ok(())
}
