//! Facts in, yes or a refusal out. Everything that comes to the app passes here: the port's transport first, then its
//! allow-list. In Observe the refusal is recorded and the traffic passes.

use std::net::IpAddr;

use isthmus_certs::SpiffeId;

use super::{Inbound, probe};
use crate::flows::{Observed, Record, Verdict, Way};
use crate::reason::Reason;
use crate::state::policy::{self, Arrived, Decision, Facts, Finding, HttpFacts, explain};
use crate::state::{InboundPort, Mesh};
use crate::telemetry::Direction;

/// Who asks, and how the bytes came.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub peer: Option<&'a SpiffeId>,
    pub address: IpAddr,
    pub arrived: Arrived,
}

/// A no, with what the caller is told: the word, and an id to ask the operator with.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    pub decision: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal { reason, decision: None }
    }
}

/// What is asked.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) mesh: &'a Mesh,
    /// The app's port. Not `port`'s own number where that stands for all undeclared ones.
    pub(super) number: u16,
    pub(super) port: &'a InboundPort,
    pub(super) caller: Caller<'a>,
    pub(super) http: Option<HttpFacts<'a>>,
    /// A request as the platform's probes are: it stays a request, and has no query.
    pub(super) may_probe: bool,
}

impl Inbound {
    /// Whether this traffic may reach the app's port. Counted as one flow. With a yes comes the no that it would have been,
    /// where the port is only observed or a policy in Audit.
    pub(super) fn authorize(&self, question: &Question<'_>) -> Result<Option<Refusal>, Refusal> {
        self.judge(question, true)
    }

    /// The same for something that was let in and counted before, or may yet turn out to be something else: only a no is
    /// recorded.
    pub(super) fn still_authorized(&self, question: &Question<'_>) -> Result<(), Refusal> {
        self.judge(question, false).map(drop)
    }

    /// The same, and nobody hears of it.
    pub(super) fn would_pass(&self, question: &Question<'_>) -> bool {
        !self.is_enforced(question.mesh, question.port) || decided(question, &self.facts(question)).allowed
    }

    /// A no to what turned out to be another thing than policy's yes was for.
    pub(super) fn refuse_after_all(&self, question: &Question<'_>, reason: Reason) -> Refusal {
        let decision = Decision { allowed: false, reason: Some(reason), policy: None, rule: None, audit: None };
        let refused = self.refused(question, &self.facts(question), &decision, reason, true);
        Refusal { reason, decision: Some(refused) }
    }

    fn judge(&self, question: &Question<'_>, count_allowed: bool) -> Result<Option<Refusal>, Refusal> {
        if probe::is_request(question) {
            return Ok(None);
        }
        let facts = self.facts(question);
        let decision = decided(question, &facts);
        let Some(reason) = decision.reason.filter(|_| !decision.allowed) else {
            if !count_allowed {
                return Ok(None);
            }
            self.count(&decision, Verdict::Allowed, &facts, question.caller.arrived, question.port);
            return Ok(decision.audit.map(|finding| self.audited(question, &facts, finding)));
        };
        let enforced = self.is_enforced(question.mesh, question.port);
        let id = self.refused(question, &facts, &decision, reason, enforced);
        let refusal = Refusal { reason, decision: Some(id) };
        if enforced { Err(refusal) } else { Ok(Some(refusal)) }
    }

    /// What a policy in Audit would have refused: counted, remembered and said, as on a port that is only observed.
    fn audited(&self, question: &Question<'_>, facts: &Facts<'_>, finding: Finding<'_>) -> Refusal {
        let Finding { reason, policy, rule } = finding;
        self.needs.metrics.would_refuse(reason, Direction::Inbound);
        let as_if = Decision { allowed: false, reason: Some(reason), policy, rule, audit: Some(finding) };
        let id = self.explain(&as_if, reason, false, facts, question.port);
        Refusal { reason, decision: Some(id) }
    }

    fn facts<'a>(&self, question: &Question<'a>) -> Facts<'a> {
        let Question { mesh, number, port, caller, http, .. } = *question;
        let site = port.policy.needs_site().then(|| mesh.site_of(caller.address)).flatten();
        let now_ms = if port.policy.needs_time() { self.needs.identity.clock().now_ms() } else { 0 };
        let ours = self.needs.identity.trust_domain();
        Facts {
            peer: caller.peer,
            foreign: caller.peer.is_some_and(|peer| peer.trust_domain() != ours),
            peer_ip: caller.address,
            peer_site: site.map(|site| site.name.as_str()),
            behind: port.policy.needs_address().then(|| mesh.behind(caller.peer, caller.address)).flatten(),
            port: number,
            now_ms,
            http,
        }
    }

    /// Counts it as a flow and as a refusal, and keeps it under an id for the operator.
    fn refused(
        &self,
        question: &Question<'_>,
        facts: &Facts<'_>,
        decision: &Decision<'_>,
        reason: Reason,
        enforced: bool,
    ) -> String {
        let verdict = if enforced { Verdict::Refused } else { Verdict::WouldRefuse };
        self.count(decision, verdict, facts, question.caller.arrived, question.port);
        if enforced {
            self.needs.metrics.refused(reason, Direction::Inbound);
        } else {
            self.needs.metrics.would_refuse(reason, Direction::Inbound);
        }
        self.explain(decision, reason, enforced, facts, question.port)
    }

    fn count(
        &self,
        decision: &Decision<'_>,
        verdict: Verdict,
        facts: &Facts<'_>,
        arrived: Arrived,
        inbound_port: &InboundPort,
    ) {
        let http = facts.http.as_ref();
        self.flows().record(&Observed {
            way: Way::In,
            peer: facts.peer,
            ip: facts.peer_ip.to_canonical(),
            port: facts.port,
            arrived,
            method: http.map(|http| http.method),
            path: http.map(|http| http.path),
            host: http.and_then(|http| http.host).filter(|_| inbound_port.policy.needs_host()),
            verdict,
            reason: decision.reason,
            policy: decision.policy,
            rule: decision.rule,
            audit: decision.audit.map(|finding| (finding.reason, finding.policy)),
        });
    }

    /// Whether refusals at this port are carried out, or only recorded.
    pub(super) fn is_enforced(&self, mesh: &Mesh, port: &InboundPort) -> bool {
        port.standing.is_enforced(mesh.enforcement(), || self.needs.identity.clock().now_ms())
    }

    /// A refusal that no policy decided: counted, and said in the log.
    pub(super) fn refuse(&self, reason: Reason, source: IpAddr, detail: &str) -> Refusal {
        self.needs.metrics.refused(reason, Direction::Inbound);
        if let Some(left_out) = self.log.may_say(reason) {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::info!(reason = reason.word(), caller_address = %source, left_out, "refused: {detail}");
        }
        Refusal { reason, decision: None }
    }

    /// Says it to the operator: one record, and one log line where they are not flooded. Returns the id that both carry.
    fn explain(
        &self,
        decision: &Decision<'_>,
        reason: Reason,
        enforced: bool,
        facts: &Facts<'_>,
        inbound_port: &InboundPort,
    ) -> String {
        let id = format!("{:016x}", rand::random::<u64>());
        let service = inbound_port.services.first();
        let record = Record {
            id: id.clone(),
            destination: None,
            at_ms: self.needs.identity.clock().now_ms(),
            reason: reason.word(),
            enforced,
            because: because(decision, inbound_port),
            caller: facts.peer.map(ToString::to_string),
            caller_address: facts.peer_ip.to_string(),
            service: service.map(ToString::to_string),
            port: facts.port,
            method: facts.http.as_ref().map(|http| http.method.to_owned()),
            path: facts.http.as_ref().map(|http| http.path.to_owned()),
            policy: decision.policy.map(str::to_owned),
            rule: decision.rule,
            would_allow: service.and_then(|service| explain::yaml_that_would_allow(decision, facts, service)),
        };
        if let Some(left_out) = self.log.may_say(reason) {
            say(&record, left_out);
        }
        self.needs.decisions.record(record);
        id
    }
}

fn decided<'a>(question: &Question<'a>, facts: &Facts<'_>) -> Decision<'a> {
    let policy = &question.port.policy;
    match policy::check_transport(policy, question.caller.arrived) {
        Ok(()) => policy::decide(policy, facts),
        Err(reason) => Decision { allowed: false, reason: Some(reason), policy: None, rule: None, audit: None },
    }
}

fn say(record: &Record, left_out: u64) {
    tracing::info!(
        decision = record.id,
        reason = record.reason,
        enforced = record.enforced,
        caller = record.caller.as_deref().unwrap_or("none"),
        caller_address = record.caller_address,
        port = record.port,
        method = record.method.as_deref(),
        path = record.path.as_deref(),
        policy = record.policy.as_deref(),
        rule = record.rule,
        would_allow = record.would_allow.as_deref(),
        left_out = (left_out > 0).then_some(left_out),
        "refused: {}",
        record.because,
    );
}

fn because(decision: &Decision<'_>, inbound_port: &InboundPort) -> String {
    let policy = &inbound_port.policy;
    if let Some(detail) = policy.refusal_detail() {
        return detail.to_owned();
    }
    match decision.reason {
        Some(Reason::Plaintext) => format!("plain bytes, and the port's transport is {:?}", policy.transport),
        Some(Reason::MeshOnly) => "the app's own TLS, and the port's transport is MeshOnly".to_owned(),
        Some(Reason::TlsNotDeclared) => "TLS on a port that no service declares as TLS: set its appProtocol".to_owned(),
        Some(Reason::TlsVersion) => format!("the app's TLS is older than minTlsVersion {:?}", policy.min_tls_version),
        _ if decision.audit.is_some() => {
            format!("{}; it is in Audit, and refuses nothing", explain::sentence(decision))
        }
        _ => explain::sentence(decision),
    }
}
