//! Tells the control plane what this proxy decided: the counts now and then, refusals within a second or two, so that
//! `isthmus explain` finds them. Over the connection of the discovery stream; while there is none, counts are kept, within
//! bounds. A report that was not answered is sent again as it was, with its number: the control plane counts it once.

use std::sync::Arc;
use std::time::Duration;

use isthmus_proto::flows::v1 as wire;
use isthmus_proto::flows::v1::flows_client::FlowsClient;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tracing::debug;

use super::Context;
use crate::flows::{Collected, Collector, Counted, Decisions, FlowKey, Record, Verdict, Way};
use crate::state::TlsVersion;
use crate::state::policy::Arrived;

/// Between two looks at whether there is something to say.
const LOOK: Duration = Duration::from_secs(1);
/// Between two reports of counts, until the control plane says otherwise.
const EVERY: Duration = Duration::from_secs(10);
/// What it may ask for.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(600);
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// When the proxy stops, what is left is said within this.
const LAST_DEADLINE: Duration = Duration::from_secs(1);
/// At about 300 bytes each a report stays below 1 MiB.
const MOST_FLOWS: usize = 2_000;
const MOST_REFUSALS: usize = 500;

pub(super) struct Reporter<'a> {
    flows: Collector,
    decisions: Arc<Decisions>,
    context: &'a Context,
    life: u64,
    sequence: u64,
    /// How many refusals were reported or missed.
    refusals_seen: u64,
    since_ms: i64,
    due: Instant,
    /// Sent and not answered.
    pending: Option<wire::ReportRequest>,
}

impl<'a> Reporter<'a> {
    pub(super) fn new(flows: Collector, decisions: Arc<Decisions>, context: &'a Context) -> Self {
        let since_ms = context.identities.clock().now_ms();
        let (life, due) = (rand::random::<u64>(), Instant::now() + EVERY);
        Reporter { flows, decisions, context, life, sequence: 0, refusals_seen: 0, since_ms, due, pending: None }
    }

    /// Ends only with the proxy.
    pub(super) async fn keep_reporting(&mut self) {
        loop {
            // A fleet that started together does not report together.
            tokio::time::sleep(LOOK.mul_f64(0.5 + rand::random::<f64>())).await;
            self.merge();
            while let Some(channel) = self.channel() {
                if !self.report(channel, false, ANSWER_DEADLINE).await {
                    break;
                }
            }
        }
    }

    /// What was counted up to the end.
    pub(super) async fn report_last(&mut self) {
        self.merge();
        let all = async {
            while let Some(channel) = self.channel() {
                if !self.report(channel, true, LAST_DEADLINE).await {
                    break;
                }
            }
        };
        // A control plane that cannot be reached now misses it.
        let _ = timeout(LAST_DEADLINE, all).await;
    }

    /// What found no place is counted here, whether or not anybody can be told.
    fn merge(&mut self) {
        self.flows.merge(self.context.identities.clock().now_ms());
        self.context.metrics.flows_dropped(self.flows.dropped_in_all());
    }

    fn channel(&self) -> Option<Channel> {
        self.context.channel.borrow().clone()
    }

    /// Sends one report, if there is one to send. True: it was taken, and there may be more.
    async fn report(&mut self, channel: Channel, all: bool, deadline: Duration) -> bool {
        let Some(request) = self.pending.clone().or_else(|| self.next(all)) else { return false };
        self.pending = Some(request.clone());
        let mut client = FlowsClient::new(channel);
        match timeout(deadline, client.report(request)).await {
            Ok(Ok(answer)) => {
                let wanted = Duration::from_millis(answer.into_inner().next_ms.into());
                self.due = self.due.min(Instant::now() + wanted.clamp(SHORTEST, LONGEST));
                self.pending = None;
                true
            }
            Ok(Err(status)) if is_final(status.code()) => {
                // It will never be taken; the next one may.
                debug!("report of flows refused: {status}");
                self.pending = None;
                self.due = Instant::now() + EVERY;
                false
            }
            Ok(Err(status)) => {
                debug!("report of flows failed, sending it again: {status}");
                false
            }
            Err(_) => false,
        }
    }

    fn next(&mut self, all: bool) -> Option<wire::ReportRequest> {
        let now = Instant::now();
        let fresh = self.decisions.since(self.refusals_seen, MOST_REFUSALS);
        self.refusals_seen = fresh.next;
        self.context.metrics.refusals_dropped(fresh.missed);
        let mut counted = Collected::default();
        if (all || now >= self.due) && !self.flows.is_empty() {
            counted = self.flows.take(MOST_FLOWS);
            if self.flows.is_empty() {
                self.due = now + LONGEST;
            }
        }
        if fresh.records.is_empty() && fresh.missed == 0 && counted.flows.is_empty() && counted.dropped == 0 {
            return None;
        }
        let until_ms = self.context.identities.clock().now_ms();
        let since_unix_ms = std::mem::replace(&mut self.since_ms, until_ms);
        self.sequence += 1;
        let (came, left): (Vec<_>, Vec<_>) = counted.flows.iter().partition(|(key, _)| key.way == Way::In);
        Some(wire::ReportRequest {
            workload: self.context.workload.clone(),
            life: self.life,
            sequence: self.sequence,
            since_unix_ms,
            until_unix_ms: until_ms,
            flows: came.into_iter().map(|(key, counted)| flow(key, *counted)).collect(),
            departures: left.into_iter().map(|(key, counted)| departure(key, *counted)).collect(),
            refusals: fresh.records.into_iter().map(refusal).collect(),
            flows_dropped: counted.dropped,
            refusals_dropped: fresh.missed,
        })
    }
}

/// Whether sending it again is of no use.
fn is_final(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::InvalidArgument | tonic::Code::Unimplemented | tonic::Code::OutOfRange)
}

fn transport(arrived: Arrived) -> (wire::Transport, String) {
    match arrived {
        Arrived::Mesh => (wire::Transport::Mesh, String::new()),
        Arrived::AppTls { version, .. } => (wire::Transport::Tls, version.map(tls_word).unwrap_or_default().to_owned()),
        Arrived::Plain => (wire::Transport::Plaintext, String::new()),
    }
}

fn verdict(verdict: Verdict) -> wire::Verdict {
    match verdict {
        Verdict::Allowed => wire::Verdict::Allowed,
        Verdict::Refused => wire::Verdict::Refused,
        Verdict::WouldRefuse => wire::Verdict::WouldRefuse,
    }
}

fn text(text: &Option<Box<str>>) -> String {
    text.as_deref().unwrap_or_default().to_owned()
}

/// What left the mesh.
fn departure(key: &FlowKey, counted: Counted) -> wire::Departure {
    let read = key.way == Way::Out;
    let (transport, tls_version) = if read { transport(key.arrived) } else { Default::default() };
    wire::Departure {
        host: text(&key.host),
        read,
        address: key.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        port: key.port.into(),
        transport: transport.into(),
        tls_version,
        verdict: verdict(key.verdict).into(),
        reason: key.reason.map(|reason| reason.word().to_owned()).unwrap_or_default(),
        policy: text(&key.policy),
        rule: key.rule.map_or(0, |rule| rule.saturating_add(1)),
        audit_reason: key.audit.as_ref().map(|(reason, _)| reason.word().to_owned()).unwrap_or_default(),
        audit_policy: key.audit.as_ref().map(|(_, policy)| text(policy)).unwrap_or_default(),
        count: counted.count,
        first_seen_unix_ms: counted.first_ms,
        last_seen_unix_ms: counted.last_ms,
    }
}

fn flow(key: &FlowKey, counted: Counted) -> wire::Flow {
    let (transport, tls_version) = transport(key.arrived);
    wire::Flow {
        identity: key.peer.as_ref().map(ToString::to_string).unwrap_or_default(),
        address: key.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        site: String::new(),
        port: key.port.into(),
        transport: transport.into(),
        tls_version,
        method: text(&key.method),
        path: text(&key.path),
        host: text(&key.host),
        verdict: verdict(key.verdict).into(),
        reason: key.reason.map(|reason| reason.word().to_owned()).unwrap_or_default(),
        policy: text(&key.policy),
        rule: key.rule.map_or(0, |rule| rule.saturating_add(1)),
        audit_reason: key.audit.as_ref().map(|(reason, _)| reason.word().to_owned()).unwrap_or_default(),
        audit_policy: key.audit.as_ref().map(|(_, policy)| text(policy)).unwrap_or_default(),
        count: counted.count,
        first_seen_unix_ms: counted.first_ms,
        last_seen_unix_ms: counted.last_ms,
    }
}

fn tls_word(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V1_0 => "1.0",
        TlsVersion::V1_1 => "1.1",
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    }
}

/// A path of any length would let a hostile caller fill the store: what `explain` shows is its beginning.
const LONGEST_PATH: usize = 512;

fn refusal(record: Record) -> wire::Refusal {
    let path = record.path.unwrap_or_default();
    wire::Refusal {
        id: record.id,
        at_unix_ms: record.at_ms,
        reason: record.reason.to_owned(),
        enforced: record.enforced,
        because: record.because,
        identity: record.caller.unwrap_or_default(),
        address: record.caller_address,
        service: record.service.unwrap_or_default(),
        port: record.port.into(),
        method: record.method.unwrap_or_default().chars().take(64).collect(),
        path: path.chars().take(LONGEST_PATH).collect(),
        policy: record.policy.unwrap_or_default(),
        rule: record.rule.map_or(0, |rule| rule.saturating_add(1)),
        destination: record.destination.unwrap_or_default(),
        would_allow: record.would_allow.filter(|_| path.len() <= LONGEST_PATH).unwrap_or_default(),
    }
}
