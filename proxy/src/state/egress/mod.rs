//! Where the app may go outside of the mesh: pure functions of the compiled EgressPolicies and the facts of one
//! connection or request.
//!
//! A deny wins, then an allow, then the default. A name that is not seen (no SNI, no Host) is *unknown*: it never satisfies
//! an allow and always satisfies a deny. What an allow says of TLS holds for what it allows; else the default does.

pub mod explain;
mod index;

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_proto::model::{self, Action, EgressDefault, RuleMode, TlsVersion, Transport};

use super::policy::{Arrived, check_required};
use crate::reason::Reason;
use index::{Index, Rule};

#[cfg(test)]
#[path = "egress_test.rs"]
mod egress_test;

/// What is known of one connection or request that leaves the mesh.
#[derive(Debug, Clone, Copy)]
pub struct Leaving<'a> {
    /// Where the app wants to go.
    pub to: SocketAddr,
    /// From SNI or Host, as [`host_of`] gives it. `None` is *unknown*.
    pub host: Option<&'a str>,
    /// Plain, or the app's own TLS.
    pub arrived: Arrived,
}

/// The answer, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why not; `None`: allowed.
    pub refused: Option<Reason>,
    /// The EgressPolicy that decided; `None`: the mesh's default.
    pub policy: Option<Arc<str>>,
    /// The rule's place in that policy's list; `None`: its default.
    pub rule: Option<u32>,
    /// The name that the rule allows: the address is what our own resolver gives for it.
    pub by_host: bool,
    /// Below this the app's TLS is refused, whatever the ServerHello says; `None`: no TLS is asked for.
    pub min_tls: Option<TlsVersion>,
    /// Allowed, and would be refused if what is in audit mode were enforced.
    pub audit: Option<(Reason, Option<Arc<str>>)>,
}

/// The EgressPolicies of one workload, compiled.
#[derive(Debug)]
pub struct Egress(Body);

#[derive(Debug)]
enum Body {
    /// Nothing is restricted: nothing is looked at.
    Open,
    /// This build cannot read it.
    Refusing(String),
    Is(Box<Compiled>),
}

#[derive(Debug)]
struct Compiled {
    deny: Index,
    allow: Index,
    enforced: Default,
    audited: Option<Default>,
}

#[derive(Debug)]
struct Default {
    action: Action,
    action_from: Option<Arc<str>>,
    transport: Transport,
    min_tls: TlsVersion,
    transport_from: Option<Arc<str>>,
}

impl Egress {
    /// As where nobody says anything.
    pub fn open() -> Egress {
        Egress(Body::Open)
    }

    pub fn refusing(why: &str) -> Egress {
        Egress(Body::Refusing(why.to_owned()))
    }

    /// Whether everything may leave, and nothing is to be reported.
    pub fn is_open(&self) -> bool {
        matches!(self.0, Body::Open)
    }

    /// Why nothing may leave, where that is for what this build cannot read.
    pub fn refusal_detail(&self) -> Option<&str> {
        match &self.0 {
            Body::Refusing(why) => Some(why),
            Body::Open | Body::Is(_) => None,
        }
    }

    /// Whether UDP, which cannot be looked into, has to stay: egress is denied by default, or is TLS only.
    pub fn restricts_udp(&self) -> bool {
        match &self.0 {
            Body::Open => false,
            Body::Refusing(_) => true,
            Body::Is(compiled) => {
                compiled.enforced.action == Action::Deny || compiled.enforced.transport != Transport::Permissive
            }
        }
    }

    /// Whether it may leave.
    pub fn decide(&self, leaving: &Leaving<'_>) -> Verdict {
        match &self.0 {
            Body::Open => Verdict::allowed(None, None, false, None),
            Body::Refusing(_) => Verdict::refused(Reason::UnknownFeature, None, None),
            Body::Is(compiled) => compiled.decide(leaving),
        }
    }
}

impl Compiled {
    fn decide(&self, leaving: &Leaving<'_>) -> Verdict {
        let verdict = self.verdict(leaving, &self.enforced, false);
        let Some(audited) = self.audited.as_ref().filter(|_| verdict.refused.is_none()) else {
            return verdict;
        };
        let would = self.verdict(leaving, audited, true);
        Verdict { audit: would.refused.map(|reason| (reason, would.policy)), ..verdict }
    }

    /// With `audit`, as if what is in audit mode were enforced as well.
    fn verdict(&self, leaving: &Leaving<'_>, default: &Default, audit: bool) -> Verdict {
        let counts = |rule: &Rule| audit || rule.mode == RuleMode::Enforce;
        if let Some(rule) =
            self.deny.first(leaving, leaving.host.is_none(), |rule| counts(rule) && rule.matches_deny(leaving))
        {
            let reason = if rule.conditions.is_some() { Reason::DeniedByRule } else { Reason::UnknownFeature };
            return Verdict::refused(reason, Some(&rule.policy), Some(rule.index));
        }
        let allowed = self.allow.first(leaving, false, |rule| counts(rule) && rule.matches_allow(leaving));
        match allowed {
            Some(rule) => default.carried(leaving, Some(rule)),
            None if default.action == Action::Allow => default.carried(leaving, None),
            None => {
                let named = self.allow.first(leaving, true, |rule| counts(rule) && rule.names_another(leaving));
                match named {
                    Some(rule) => Verdict::refused(Reason::NameMismatch, Some(&rule.policy), Some(rule.index)),
                    None => Verdict::refused(Reason::NotAllowed, default.action_from.as_ref(), None),
                }
            }
        }
    }
}

impl Default {
    /// It may leave, if it is carried as it has to be.
    fn carried(&self, leaving: &Leaving<'_>, rule: Option<&Rule>) -> Verdict {
        let conditions = rule.and_then(|rule| rule.conditions.as_ref());
        let transport = conditions.and_then(|c| c.transport).unwrap_or(self.transport);
        let min_tls = conditions.and_then(|c| c.min_tls).unwrap_or(self.min_tls);
        // Outside of the mesh the first bytes, and not a declaration, say what TLS is; the ServerHello proves it.
        let arrived = match leaving.arrived {
            Arrived::AppTls { version, .. } => Arrived::AppTls { version, declared: true },
            other => other,
        };
        let policy = rule.map(|rule| &rule.policy);
        if let Err(reason) = check_required(transport, min_tls, arrived) {
            return Verdict::refused(reason, policy.or(self.transport_from.as_ref()), rule.map(|rule| rule.index));
        }
        let by_host = conditions.is_some_and(|conditions| conditions.has_hosts);
        let min_tls = (transport != Transport::Permissive).then_some(min_tls);
        Verdict::allowed(policy.or(self.action_from.as_ref()), rule.map(|rule| rule.index), by_host, min_tls)
    }
}

impl Verdict {
    /// Of a no that no rule says.
    pub fn of_no_rule() -> Verdict {
        Verdict::allowed(None, None, false, None)
    }

    fn allowed(policy: Option<&Arc<str>>, rule: Option<u32>, by_host: bool, min_tls: Option<TlsVersion>) -> Verdict {
        Verdict { refused: None, policy: policy.cloned(), rule, by_host, min_tls, audit: None }
    }

    fn refused(reason: Reason, policy: Option<&Arc<str>>, rule: Option<u32>) -> Verdict {
        Verdict { refused: Some(reason), policy: policy.cloned(), rule, by_host: false, min_tls: None, audit: None }
    }
}

impl From<model::Egress> for Egress {
    fn from(egress: model::Egress) -> Egress {
        let open = egress.enforced.action == Action::Allow && egress.enforced.transport == Transport::Permissive;
        if open && egress.deny.is_empty() && egress.allow.is_empty() && egress.audited.is_none() {
            return Egress::open();
        }
        Egress(Body::Is(Box::new(Compiled {
            deny: Index::new(egress.deny, true),
            allow: Index::new(egress.allow, false),
            enforced: egress.enforced.into(),
            audited: egress.audited.map(Into::into),
        })))
    }
}

impl From<EgressDefault> for Default {
    fn from(default: EgressDefault) -> Default {
        Default {
            action: default.action,
            action_from: default.action_from.map(Into::into),
            transport: default.transport,
            min_tls: default.min_tls_version,
            transport_from: default.transport_from.map(Into::into),
        }
    }
}

/// The name of a Host header, `:authority` or SNI, as rules have it: lower case, without port and closing dot. An address
/// is no name: what it is, is seen from the connection.
pub fn host_of(written: &str) -> Option<String> {
    let written = written.trim();
    let name = match written.rsplit_once(':') {
        _ if written.starts_with('[') => return None,
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some((name, "")) => name,
        Some(_) => return None,
        None => written,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && name.split('.').all(|label| (1..=63).contains(&label.len()));
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    (is_name && !is_address).then_some(name)
}
