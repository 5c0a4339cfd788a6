//! Who may do what: pure functions of a compiled policy and the facts of one connection or request.
//!
//! A deny wins, then an allow, then the default. A condition on something that this traffic does not have is *unknown*:
//! it never satisfies an allow and always satisfies a deny. What this build cannot understand refuses.

mod compile;
pub mod explain;
mod keys;
mod matching;
pub mod path;
mod prefixes;
mod tree;

use std::net::IpAddr;

use isthmus_certs::SpiffeId;
use isthmus_proto::model::{Action, TlsVersion, Transport};

pub use compile::CompiledPolicy;
use compile::CompiledRule;
use matching::Known;

use crate::reason::Reason;

/// What is known of one connection or request. `None` is *unknown*.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// From the mesh certificate; never from a header.
    pub peer: Option<&'a SpiffeId>,
    /// Its identity is of another trust domain: it is in no namespace of ours, and no default speaks of it.
    pub foreign: bool,
    /// The transport peer's address; never from a header.
    pub peer_ip: IpAddr,
    pub peer_site: Option<&'a str>,
    /// `None`: that address is the caller's own. Else it is what its site is seen as, and these are the addresses that
    /// are registered of its identity there; none: nobody knows.
    pub behind: Option<&'a [IpAddr]>,
    /// The app's port.
    pub port: u16,
    /// The proxy's clock, Unix time in milliseconds: rules end by it. Read only where [`CompiledPolicy::needs_time`].
    pub now_ms: i64,
    /// `None` for opaque streams.
    pub http: Option<HttpFacts<'a>>,
}

/// The head of one request, as it will be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'a> {
    /// `:authority` or Host, with or without port.
    pub host: Option<&'a str>,
    pub method: &'a str,
    /// As it came, with or without query; not decoded. Compared in the form of [`path::normalise`].
    pub path: &'a str,
    pub headers: &'a http::HeaderMap,
}

/// The answer, and what it rests on. Borrows from the policy: a decision allocates nothing and counts no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'p> {
    pub allowed: bool,
    /// Why not; `None` when allowed.
    pub reason: Option<Reason>,
    /// The ServicePolicy that decided; `None`: the mesh's default, or nothing that has a name.
    pub policy: Option<&'p str>,
    /// The rule's place in that policy's `allow` or `deny` list; `None`: its default.
    pub rule: Option<u32>,
    /// Allowed, but would be refused if the policies in audit mode were enforced.
    pub audit: Option<Finding<'p>>,
}

/// What a policy in audit mode would have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding<'p> {
    pub reason: Reason,
    pub policy: Option<&'p str>,
    pub rule: Option<u32>,
}

/// How bytes got here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrived {
    /// Over a mesh connection.
    Mesh,
    /// In the app's own TLS. `version` is what the ServerHello chose; `None`: nothing we know.
    AppTls {
        version: Option<TlsVersion>,
        /// The port is declared TLS (`appProtocol` or port name).
        declared: bool,
    },
    Plain,
}

/// Whether the port's transport takes bytes that came this way.
pub fn check_transport(policy: &CompiledPolicy, how: Arrived) -> Result<(), Reason> {
    if let Some((reason, _)) = &policy.refuse {
        return Err(*reason);
    }
    check_required(policy.transport, policy.min_tls_version, how)
}

/// The same for a sender, who knows the callee's transport only.
pub fn check_required(transport: Transport, min_tls_version: TlsVersion, how: Arrived) -> Result<(), Reason> {
    match (transport, how) {
        (_, Arrived::Mesh) | (Transport::Permissive, _) => Ok(()),
        (_, Arrived::Plain) => Err(Reason::Plaintext),
        (Transport::MeshOnly, Arrived::AppTls { .. }) => Err(Reason::MeshOnly),
        (Transport::HttpsOnly, Arrived::AppTls { declared: false, .. }) => Err(Reason::TlsNotDeclared),
        (Transport::HttpsOnly, Arrived::AppTls { version, .. }) => match version {
            Some(version) if version >= min_tls_version => Ok(()),
            Some(_) | None => Err(Reason::TlsVersion),
        },
    }
}

/// Whether this connection or request may pass.
pub fn decide<'p>(policy: &'p CompiledPolicy, facts: &Facts<'_>) -> Decision<'p> {
    if let Some((reason, _)) = &policy.refuse {
        return Decision::refused(*reason, None, None);
    }
    let known = Known::of(facts, policy.needs);
    let decision = verdict(policy, &known, false);
    if !decision.allowed || !policy.audits() {
        return decision;
    }
    let enforced = verdict(policy, &known, true);
    let finding = enforced.reason.map(|reason| Finding { reason, policy: enforced.policy, rule: enforced.rule });
    Decision { audit: finding, ..decision }
}

/// With `audit`, as if the rules in audit mode were enforced as well.
fn verdict<'p>(policy: &'p CompiledPolicy, facts: &Known<'_>, audit: bool) -> Decision<'p> {
    if let Some(rule) = policy.deny.first(facts, audit) {
        let understood = rule.conditions.is_some();
        return Decision::by(rule, Some(if understood { Reason::DeniedByRule } else { Reason::UnknownFeature }));
    }
    if let Some(rule) = policy.allow.first(facts, audit) {
        return Decision::by(rule, None);
    }
    if let Some((_, rule)) = policy.allow.first_unreadable(audit) {
        return Decision::by(rule, Some(Reason::UnknownFeature));
    }
    // A policy in audit mode with an allow list would have made the default a deny.
    let closing = policy.allow.first_audit().filter(|_| audit);
    let default_action = if facts.is_foreign() { Action::Deny } else { policy.default_action };
    match (default_action, closing) {
        (Action::Allow, Some(rule)) => Decision::refused(Reason::NotAllowed, Some(&rule.policy), None),
        (Action::Allow, None) => Decision::allowed(policy.default_from(), None),
        (Action::Deny, _) => Decision::refused(Reason::NotAllowed, policy.default_from(), None),
    }
}

impl<'p> Decision<'p> {
    fn allowed(policy: Option<&'p str>, rule: Option<u32>) -> Self {
        Self { allowed: true, reason: None, policy, rule, audit: None }
    }

    fn refused(reason: Reason, policy: Option<&'p str>, rule: Option<u32>) -> Self {
        Self { allowed: false, reason: Some(reason), policy, rule, audit: None }
    }

    fn by(rule: &'p CompiledRule, refused: Option<Reason>) -> Self {
        let (policy, index) = (Some(rule.policy.as_ref()), Some(rule.index));
        match refused {
            Some(reason) => Self::refused(reason, policy, index),
            None => Self::allowed(policy, index),
        }
    }
}

#[cfg(test)]
#[path = "policy_test.rs"]
mod policy_test;

#[cfg(test)]
#[path = "naive_test.rs"]
mod naive_test;
