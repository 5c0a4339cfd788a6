//! Where traffic goes in the end: endpoints, workloads, and what an address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_certs::SpiffeId;

use super::error::{NOT_UNDERSTOOD, each, parse, port, requires};
use super::service::{service_ports, write_ports};
use super::{ModelError, ServiceName, ServicePort, SiteName, Understood, WorkloadName};
use crate::discovery::v1 as wire;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `None`: outside all declared sites.
    pub site: Option<SiteName>,
    pub ip: IpAddr,
    /// Service port → the app's port here.
    pub target_ports: BTreeMap<u16, u16>,
    pub workload: Option<WorkloadName>,
    /// `None`: no sidecar, reached in plain.
    pub mesh: Option<MeshPeer>,
}

/// The sidecar in front of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshPeer {
    pub port: u16,
    /// Ids that it may present. Never empty.
    pub identities: Vec<SpiffeId>,
}

/// What an address inside the mesh's ranges is.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    pub ip: IpAddr,
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Service(ServiceName),
    Workload(Workload),
}

/// A workload that is addressed directly.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub endpoint: Endpoint,
    /// By the app's port.
    pub ports: Vec<(u16, Understood<ServicePort>)>,
}

impl Workload {
    pub fn problems(&self) -> impl Iterator<Item = &ModelError> {
        self.ports.iter().filter_map(|(_, p)| p.as_ref().err())
    }
}

pub(super) fn write_endpoint(endpoint: Understood<Endpoint>) -> wire::Endpoint {
    endpoint
        .map_or_else(|_| wire::Endpoint { requires: vec![NOT_UNDERSTOOD.to_owned()], ..Default::default() }, Into::into)
}

impl TryFrom<wire::Endpoint> for Endpoint {
    type Error = ModelError;

    fn try_from(e: wire::Endpoint) -> Result<Self, ModelError> {
        requires(&e.requires)?;
        let mut target_ports = BTreeMap::new();
        for (from, to) in e.target_ports {
            target_ports.insert(port("target_ports", from)?, port("target_ports", to)?);
        }
        Ok(Self {
            site: given(&e.site).map(parse).transpose().map_err(|e| ModelError::new("site", e))?,
            ip: e.ip.parse().map_err(|_| ModelError::new("ip", "not an IP address"))?,
            target_ports,
            workload: given(&e.workload).map(parse).transpose().map_err(|e| ModelError::new("workload", e))?,
            mesh: MeshPeer::read(e.mesh_port, &e.identities)?,
        })
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl MeshPeer {
    /// Half a sidecar is an error, never a plain endpoint: plaintext would leave the host for a peer that has TLS.
    fn read(mesh_port: u32, identities: &[String]) -> Result<Option<Self>, ModelError> {
        match (mesh_port, identities) {
            (0, []) => Ok(None),
            (0, _) => Err(ModelError::new("mesh_port", "missing, though identities are given")),
            (_, []) => Err(ModelError::new("identities", "missing, though a mesh port is given")),
            (number, identities) => Ok(Some(Self {
                port: port("mesh_port", number)?,
                identities: each("identities", identities, SpiffeId::parse)?,
            })),
        }
    }
}

impl From<Endpoint> for wire::Endpoint {
    fn from(e: Endpoint) -> Self {
        Self {
            site: e.site.map(Into::into).unwrap_or_default(),
            ip: e.ip.to_string(),
            target_ports: e.target_ports.into_iter().map(|(a, b)| (a.into(), b.into())).collect(),
            workload: e.workload.map(Into::into).unwrap_or_default(),
            mesh_port: e.mesh.as_ref().map_or(0, |m| m.port.into()),
            identities: e.mesh.iter().flat_map(|m| &m.identities).map(ToString::to_string).collect(),
            requires: Vec::new(),
        }
    }
}

impl TryFrom<wire::Address> for Address {
    type Error = ModelError;

    fn try_from(a: wire::Address) -> Result<Self, ModelError> {
        let target = match a.target {
            Some(wire::address::Target::Service(name)) => {
                Target::Service(name.parse().map_err(|e| ModelError::new("service", e))?)
            }
            Some(wire::address::Target::Workload(w)) => {
                Target::Workload(Workload::try_from(w).map_err(|e| e.within("workload"))?)
            }
            None => {
                return Err(ModelError::new("target", "missing, or of a kind that this build does not know"));
            }
        };
        Ok(Self { ip: a.ip.parse().map_err(|_| ModelError::new("ip", "not an IP address"))?, target })
    }
}

impl From<Address> for wire::Address {
    fn from(a: Address) -> Self {
        Self {
            ip: a.ip.to_string(),
            target: Some(match a.target {
                Target::Service(name) => wire::address::Target::Service(name.into()),
                Target::Workload(workload) => wire::address::Target::Workload(workload.into()),
            }),
        }
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = ModelError;

    fn try_from(w: wire::Workload) -> Result<Self, ModelError> {
        let endpoint = w.endpoint.ok_or_else(|| ModelError::new("endpoint", "missing"))?;
        Ok(Self {
            endpoint: Endpoint::try_from(endpoint).map_err(|e| e.within("endpoint"))?,
            ports: service_ports(w.ports)?,
        })
    }
}

impl From<Workload> for wire::Workload {
    fn from(w: Workload) -> Self {
        Self { endpoint: Some(w.endpoint.into()), ports: write_ports(w.ports) }
    }
}
