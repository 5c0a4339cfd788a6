//! Where the proxy's own app may go outside of the mesh.

use std::fmt;

use ipnet::IpNet;

use super::error::{NOT_UNDERSTOOD, bounded, parse, requires, unknown_value};
use super::rule::condition;
use super::{Action, HostPattern, MAX_RULES, ModelError, RuleMode, TlsVersion, Transport, Understood};
use crate::discovery::v1 as wire;

#[derive(Debug, Clone, PartialEq)]
pub struct Egress {
    pub deny: Vec<EgressRule>,
    pub allow: Vec<EgressRule>,
    pub enforced: EgressDefault,
    /// As if the policies in Audit were enforced; `None`: there are none.
    pub audited: Option<EgressDefault>,
}

/// What holds where no rule decides, or where the rule that does says nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressDefault {
    pub action: Action,
    /// The policy that sets the action; `None`: the mesh's own default.
    pub action_from: Option<String>,
    /// `MeshOnly` is none: nobody outside has a sidecar.
    pub transport: Transport,
    pub min_tls_version: TlsVersion,
    /// The policy that sets the transport; `None`: the mesh's own.
    pub transport_from: Option<String>,
}

/// What cannot be read of it is kept as such: a deny then matches everything, an allow nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct EgressRule {
    /// `<namespace>/<name>` of the EgressPolicy.
    pub policy: String,
    /// Its place in that policy's list, from 0.
    pub index: u32,
    pub mode: RuleMode,
    pub conditions: Understood<EgressConditions>,
}

/// All that are present must hold; inside one, any value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EgressConditions {
    pub hosts: Option<Vec<HostPattern>>,
    pub cidrs: Option<Vec<IpNet>>,
    pub ports: Option<Vec<u16>>,
    /// `None`: the default's.
    pub transport: Option<Transport>,
    pub min_tls_version: Option<TlsVersion>,
}

impl Egress {
    /// Every piece that could not be read.
    pub fn problems(&self) -> impl Iterator<Item = ModelError> {
        let of = |list: &'static str, rules: &[EgressRule]| -> Vec<ModelError> {
            let problem = |r: &EgressRule| r.conditions.as_ref().err().map(|e| e.clone().within(format!("{list} {r}")));
            rules.iter().filter_map(problem).collect()
        };
        of("deny", &self.deny).into_iter().chain(of("allow", &self.allow))
    }
}

impl Default for EgressDefault {
    /// As it is where nobody says anything: everything passes.
    fn default() -> Self {
        Self {
            action: Action::Allow,
            action_from: None,
            transport: Transport::Permissive,
            min_tls_version: TlsVersion::V1_2,
            transport_from: None,
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.policy, self.index)
    }
}

impl TryFrom<wire::Egress> for Egress {
    type Error = ModelError;

    fn try_from(e: wire::Egress) -> Result<Self, ModelError> {
        bounded("deny", &e.deny, MAX_RULES)?;
        bounded("allow", &e.allow, MAX_RULES)?;
        let enforced = e.enforced.ok_or_else(|| ModelError::new("enforced", "missing"))?;
        Ok(Self {
            deny: e.deny.into_iter().map(EgressRule::from).collect(),
            allow: e.allow.into_iter().map(EgressRule::from).collect(),
            enforced: EgressDefault::try_from(enforced).map_err(|e| e.within("enforced"))?,
            audited: match e.audited {
                Some(audited) => Some(EgressDefault::try_from(audited).map_err(|e| e.within("audited"))?),
                None => None,
            },
        })
    }
}

impl From<Egress> for wire::Egress {
    fn from(e: Egress) -> Self {
        Self {
            deny: e.deny.into_iter().map(Into::into).collect(),
            allow: e.allow.into_iter().map(Into::into).collect(),
            enforced: Some(e.enforced.into()),
            audited: e.audited.map(Into::into),
        }
    }
}

impl TryFrom<wire::EgressDefault> for EgressDefault {
    type Error = ModelError;

    fn try_from(d: wire::EgressDefault) -> Result<Self, ModelError> {
        Ok(Self {
            action: Action::read(d.action)?,
            action_from: (!d.action_from.is_empty()).then_some(d.action_from),
            transport: outside_transport(Transport::read(d.transport)?)?,
            min_tls_version: TlsVersion::read(d.min_tls_version)?,
            transport_from: (!d.transport_from.is_empty()).then_some(d.transport_from),
        })
    }
}

fn outside_transport(transport: Transport) -> Result<Transport, ModelError> {
    match transport {
        Transport::MeshOnly => Err(ModelError::new("transport", "MeshOnly cannot be kept outside of the mesh")),
        Transport::HttpsOnly | Transport::Permissive => Ok(transport),
    }
}

impl From<EgressDefault> for wire::EgressDefault {
    fn from(d: EgressDefault) -> Self {
        Self {
            action: wire::Action::from(d.action).into(),
            action_from: d.action_from.unwrap_or_default(),
            transport: wire::Transport::from(d.transport).into(),
            min_tls_version: wire::TlsVersion::from(d.min_tls_version).into(),
            transport_from: d.transport_from.unwrap_or_default(),
        }
    }
}

impl From<wire::EgressRule> for EgressRule {
    fn from(mut r: wire::EgressRule) -> Self {
        let (policy, index) = (std::mem::take(&mut r.policy), r.index);
        let (mode, conditions) = match wire::RuleMode::try_from(r.mode) {
            Ok(wire::RuleMode::Enforce) => (RuleMode::Enforce, EgressConditions::try_from(r)),
            Ok(wire::RuleMode::Audit) => (RuleMode::Audit, EgressConditions::try_from(r)),
            Ok(wire::RuleMode::Unspecified) | Err(_) => (RuleMode::Enforce, Err(unknown_value("mode", r.mode))),
        };
        Self { policy, index, mode, conditions }
    }
}

impl TryFrom<wire::EgressRule> for EgressConditions {
    type Error = ModelError;

    fn try_from(r: wire::EgressRule) -> Result<Self, ModelError> {
        requires(&r.requires)?;
        let transport = match r.transport {
            0 => None,
            value => Some(outside_transport(Transport::read(value)?)?),
        };
        let min_tls_version = match r.min_tls_version {
            0 => None,
            value => Some(TlsVersion::read(value)?),
        };
        Ok(Self {
            hosts: condition("hosts", r.hosts, parse)?,
            cidrs: condition("cidrs", r.cidrs, parse)?,
            ports: condition("ports", r.ports, |t| match t.parse::<u16>() {
                Ok(port) if port != 0 => Ok(port),
                _ => Err("not a port (1 to 65535)"),
            })?,
            transport,
            min_tls_version,
        })
    }
}

impl From<EgressRule> for wire::EgressRule {
    fn from(r: EgressRule) -> Self {
        let mode = match r.mode {
            RuleMode::Enforce => wire::RuleMode::Enforce,
            RuleMode::Audit => wire::RuleMode::Audit,
        };
        let named = Self { policy: r.policy, index: r.index, mode: mode.into(), ..Self::default() };
        match r.conditions {
            Ok(conditions) => conditions.write(named),
            Err(_) => Self { requires: vec![NOT_UNDERSTOOD.to_owned()], ..named },
        }
    }
}

impl EgressConditions {
    fn write(self, named: wire::EgressRule) -> wire::EgressRule {
        fn any_of<T: ToString>(values: Option<Vec<T>>) -> Option<wire::Condition> {
            values.map(|values| wire::Condition { any_of: values.iter().map(ToString::to_string).collect() })
        }
        wire::EgressRule {
            hosts: any_of(self.hosts),
            cidrs: any_of(self.cidrs),
            ports: any_of(self.ports),
            transport: self.transport.map_or(0, |transport| wire::Transport::from(transport).into()),
            min_tls_version: self.min_tls_version.map_or(0, |version| wire::TlsVersion::from(version).into()),
            ..named
        }
    }
}
