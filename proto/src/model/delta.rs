//! A change of the view that a proxy holds.

use std::fmt;
use std::net::IpAddr;

use super::error::{NOT_UNDERSTOOD, requires};
use super::{Address, Egress, Inbound, Mesh, ModelError, Service, ServiceName, Target, Understood};
use crate::discovery::v1 as wire;

/// Applied as a whole, then acknowledged by version.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    pub version: u64,
    pub upserts: Vec<Resource>,
    pub removals: Vec<ResourceKey>,
    pub first_sync_complete: bool,
}

/// A resource under its key. A body that is not understood still takes its key: what it stands for is then refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub key: ResourceKey,
    pub body: Understood<Body>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Mesh(Box<Mesh>),
    Inbound(Box<Inbound>),
    Service(Box<Service>),
    Address(Box<Address>),
    Egress(Box<Egress>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKey {
    Mesh,
    Inbound,
    Service(ServiceName),
    Address(IpAddr),
    Egress,
}

impl Delta {
    /// Reads all that can be read. The second part is what to nack with: keys that cannot be read are left out of the
    /// delta (there is nothing to refuse them by); bodies that cannot be read are in it, as not understood.
    pub fn read(message: wire::Delta) -> (Self, Vec<wire::Problem>) {
        let mut problems = Vec::new();
        let mut upserts = Vec::with_capacity(message.upserts.len());
        for resource in message.upserts {
            match Resource::read(resource) {
                Ok(resource) => {
                    problems.extend(resource.problems());
                    upserts.push(resource);
                }
                Err(problem) => problems.push(problem),
            }
        }
        let mut removals = Vec::with_capacity(message.removals.len());
        for key in message.removals {
            match ResourceKey::try_from(key.clone()) {
                Ok(key) => removals.push(key),
                Err(e) => problems.push(problem(Some(key), &e)),
            }
        }
        let delta =
            Self { version: message.version, upserts, removals, first_sync_complete: message.first_sync_complete };
        (delta, problems)
    }
}

impl From<Delta> for wire::Delta {
    fn from(d: Delta) -> Self {
        Self {
            version: d.version,
            upserts: d.upserts.into_iter().map(Into::into).collect(),
            removals: d.removals.into_iter().map(Into::into).collect(),
            first_sync_complete: d.first_sync_complete,
            signature: None,
        }
    }
}

fn problem(key: Option<wire::ResourceKey>, error: &ModelError) -> wire::Problem {
    wire::Problem { key, reason: error.to_string() }
}

impl Resource {
    fn read(message: wire::Resource) -> Result<Self, wire::Problem> {
        let wire_key = message.key.clone();
        let key = message.key.ok_or_else(|| ModelError::new("key", "missing")).and_then(ResourceKey::try_from);
        let key = key.map_err(|e| problem(wire_key, &e))?;
        let body = requires(&message.requires).and_then(|()| Body::read(&key, message.body));
        Ok(Self { key, body })
    }

    /// What could not be read, the body or pieces of it.
    pub fn problems(&self) -> Vec<wire::Problem> {
        let errors: Vec<ModelError> = match &self.body {
            Err(e) => vec![e.clone()],
            Ok(Body::Mesh(mesh)) => mesh.telemetry.as_ref().err().cloned().into_iter().collect(),
            Ok(Body::Inbound(inbound)) => inbound.problems().collect(),
            Ok(Body::Service(service)) => service.problems().cloned().collect(),
            Ok(Body::Address(address)) => match &address.target {
                Target::Workload(workload) => workload.problems().cloned().collect(),
                Target::Service(_) => Vec::new(),
            },
            Ok(Body::Egress(egress)) => egress.problems().collect(),
        };
        errors.iter().map(|e| problem(Some(self.key.clone().into()), e)).collect()
    }
}

impl Body {
    /// The body must be what its key says, or one resource could pass for another.
    fn read(key: &ResourceKey, message: Option<wire::resource::Body>) -> Understood<Self> {
        use wire::resource::Body as Wire;
        let mismatch = |what: &str| ModelError::new("key", format!("is {key}, but the body is {what}"));
        match (key, message) {
            (_, None) => Err(ModelError::new("body", "missing, or of a kind that this build does not know")),
            (ResourceKey::Mesh, Some(Wire::Mesh(m))) => Mesh::try_from(m).map(|m| Self::Mesh(Box::new(m))),
            (ResourceKey::Inbound, Some(Wire::Inbound(i))) => Inbound::try_from(i).map(|i| Self::Inbound(Box::new(i))),
            (ResourceKey::Service(name), Some(Wire::Service(s))) => match Service::try_from(s)? {
                service if service.name == *name => Ok(Self::Service(Box::new(service))),
                service => Err(mismatch(service.name.as_str())),
            },
            (ResourceKey::Address(ip), Some(Wire::Address(a))) => match Address::try_from(a)? {
                address if address.ip == *ip => Ok(Self::Address(Box::new(address))),
                address => Err(mismatch(&address.ip.to_string())),
            },
            (ResourceKey::Egress, Some(Wire::Egress(e))) => Egress::try_from(e).map(|e| Self::Egress(Box::new(e))),
            (_, Some(_)) => Err(mismatch("of another kind")),
        }
    }
}

impl From<Resource> for wire::Resource {
    fn from(r: Resource) -> Self {
        let (requires, body) = match r.body {
            Err(_) => (vec![NOT_UNDERSTOOD.to_owned()], None),
            Ok(body) => (Vec::new(), Some(body.into())),
        };
        Self { key: Some(r.key.into()), requires, body }
    }
}

impl From<Body> for wire::resource::Body {
    fn from(b: Body) -> Self {
        match b {
            Body::Mesh(m) => Self::Mesh((*m).into()),
            Body::Inbound(i) => Self::Inbound((*i).into()),
            Body::Service(s) => Self::Service((*s).into()),
            Body::Address(a) => Self::Address((*a).into()),
            Body::Egress(e) => Self::Egress((*e).into()),
        }
    }
}

impl TryFrom<wire::ResourceKey> for ResourceKey {
    type Error = ModelError;

    fn try_from(k: wire::ResourceKey) -> Result<Self, ModelError> {
        use wire::ResourceKind as Kind;
        match Kind::try_from(k.kind) {
            Ok(Kind::Mesh) => Ok(Self::Mesh),
            Ok(Kind::Inbound) => Ok(Self::Inbound),
            Ok(Kind::Service) => k.name.parse().map(Self::Service).map_err(|e| ModelError::new("key.name", e)),
            Ok(Kind::Address) => k.name.parse().map(Self::Address).map_err(|e| ModelError::new("key.name", e)),
            Ok(Kind::Egress) => Ok(Self::Egress),
            Ok(Kind::Unspecified) | Err(_) => {
                let reason = format!("{} is not a kind that this build knows", k.kind);
                Err(ModelError::new("key.kind", reason))
            }
        }
    }
}

impl From<ResourceKey> for wire::ResourceKey {
    fn from(k: ResourceKey) -> Self {
        use wire::ResourceKind as Kind;
        let (kind, name) = match k {
            ResourceKey::Mesh => (Kind::Mesh, String::new()),
            ResourceKey::Inbound => (Kind::Inbound, String::new()),
            ResourceKey::Service(name) => (Kind::Service, name.into()),
            ResourceKey::Address(ip) => (Kind::Address, ip.to_string()),
            ResourceKey::Egress => (Kind::Egress, String::new()),
        };
        Self { kind: kind.into(), name }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Inbound => f.write_str("inbound"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Egress => f.write_str("egress"),
        }
    }
}
