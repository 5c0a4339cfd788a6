//! Services and their ports.

use std::net::IpAddr;

use super::endpoint::write_endpoint;
use super::error::{each, each_understood, parse, port, unknown_value};
use super::{Endpoint, External, ModelError, ServiceName, Standing, TrafficOptions, Understood};
use crate::discovery::v1 as wire;

/// A service that the proxy's app may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    pub hostnames: Vec<String>,
    pub vips: Vec<IpAddr>,
    /// A port that is not understood refuses what is sent to it.
    pub ports: Vec<(u16, Understood<ServicePort>)>,
    /// An endpoint that is not understood gets no traffic.
    pub endpoints: Vec<Understood<Endpoint>>,
    /// `None`: it is in the mesh.
    pub external: Option<External>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    pub name: String,
    pub protocol: AppProtocol,
    /// What the callee accepts; `None`: the control plane does not say, and only the callee refuses.
    pub transport: Option<Transport>,
    pub min_tls_version: Option<TlsVersion>,
    pub options: TrafficOptions,
    /// Whether a sender's refusals are carried out.
    pub standing: Standing,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Not declared: found out from the first bytes.
    Detect,
    /// HTTP/1 or HTTP/2 by preface.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The app's own TLS.
    Tls,
    /// Opaque; the client speaks first.
    Tcp,
    /// Opaque; the server may speak first.
    ServerFirst,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Anything, plaintext included.
    Permissive,
    /// Mesh mTLS, and the app's own TLS on ports declared TLS.
    HttpsOnly,
    /// Mesh mTLS.
    MeshOnly,
}

/// In order: an older version is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

impl Service {
    /// Every piece that could not be read.
    pub fn problems(&self) -> impl Iterator<Item = &ModelError> {
        let ports = self.ports.iter().filter_map(|(_, p)| p.as_ref().err());
        ports.chain(self.endpoints.iter().filter_map(|e| e.as_ref().err()))
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = ModelError;

    fn try_from(s: wire::Service) -> Result<Self, ModelError> {
        Ok(Self {
            name: ServiceName::new(&s.namespace, &s.name).map_err(|e| ModelError::new("name", e))?,
            hostnames: s.hostnames,
            vips: each("vips", &s.vips, parse)?,
            ports: service_ports(s.ports)?,
            endpoints: each_understood("endpoints", s.endpoints)?,
            external: s.external.map(External::try_from).transpose().map_err(|e| e.within("external"))?,
        })
    }
}

impl From<Service> for wire::Service {
    fn from(s: Service) -> Self {
        Self {
            namespace: s.name.namespace().to_owned(),
            name: s.name.name().to_owned(),
            hostnames: s.hostnames,
            vips: s.vips.iter().map(ToString::to_string).collect(),
            ports: write_ports(s.ports),
            endpoints: s.endpoints.into_iter().map(write_endpoint).collect(),
            external: s.external.map(Into::into),
        }
    }
}

/// The number is read apart from the rest: a port that we do not understand is refused by its number.
pub(super) fn service_ports(ports: Vec<wire::ServicePort>) -> Result<Vec<(u16, Understood<ServicePort>)>, ModelError> {
    let mut read: Vec<(u16, Understood<ServicePort>)> = Vec::with_capacity(ports.len());
    for (i, message) in ports.into_iter().enumerate() {
        let number = port("port", message.port).map_err(|e| e.within(format!("ports[{i}]")))?;
        if read.iter().any(|(known, _)| *known == number) {
            return Err(ModelError::new(format!("ports[{i}].port"), format!("{number} is declared twice")));
        }
        read.push((number, ServicePort::try_from(message).map_err(|e| e.within(format!("ports[{i}]")))));
    }
    Ok(read)
}

pub(super) fn write_ports(ports: Vec<(u16, Understood<ServicePort>)>) -> Vec<wire::ServicePort> {
    // A number from the future in `protocol` keeps an unreadable port unreadable.
    let unreadable = |port: u16| wire::ServicePort { port: port.into(), protocol: i32::MAX, ..Default::default() };
    ports.into_iter().map(|(number, p)| p.map_or_else(|_| unreadable(number), Into::into)).collect()
}

impl TryFrom<wire::ServicePort> for ServicePort {
    type Error = ModelError;

    fn try_from(p: wire::ServicePort) -> Result<Self, ModelError> {
        Ok(Self {
            port: port("port", p.port)?,
            name: p.name,
            protocol: AppProtocol::read(p.protocol)?,
            transport: optional(p.transport, Transport::read)?,
            min_tls_version: optional(p.min_tls_version, TlsVersion::read)?,
            options: TrafficOptions::read(p.options)?,
            standing: Standing::read(p.standing)?,
        })
    }
}

fn optional<T>(value: i32, read: impl Fn(i32) -> Result<T, ModelError>) -> Result<Option<T>, ModelError> {
    if value == 0 { Ok(None) } else { read(value).map(Some) }
}

impl From<ServicePort> for wire::ServicePort {
    fn from(p: ServicePort) -> Self {
        Self {
            port: p.port.into(),
            name: p.name,
            protocol: wire::AppProtocol::from(p.protocol).into(),
            transport: p.transport.map_or(0, |t| wire::Transport::from(t).into()),
            min_tls_version: p.min_tls_version.map_or(0, |v| wire::TlsVersion::from(v).into()),
            options: p.options.write(),
            standing: p.standing.write(),
        }
    }
}

impl AppProtocol {
    pub(super) fn read(value: i32) -> Result<Self, ModelError> {
        match wire::AppProtocol::try_from(value) {
            Ok(wire::AppProtocol::Unspecified) => Ok(Self::Detect),
            Ok(wire::AppProtocol::Http) => Ok(Self::Http),
            Ok(wire::AppProtocol::Http2) => Ok(Self::Http2),
            Ok(wire::AppProtocol::Tls) => Ok(Self::Tls),
            Ok(wire::AppProtocol::Tcp) => Ok(Self::Tcp),
            Ok(wire::AppProtocol::ServerFirst) => Ok(Self::ServerFirst),
            Ok(wire::AppProtocol::Postgres) => Ok(Self::Postgres),
            Err(_) => Err(unknown_value("protocol", value)),
        }
    }
}

impl From<AppProtocol> for wire::AppProtocol {
    fn from(p: AppProtocol) -> Self {
        match p {
            AppProtocol::Detect => Self::Unspecified,
            AppProtocol::Http => Self::Http,
            AppProtocol::Http2 => Self::Http2,
            AppProtocol::Tls => Self::Tls,
            AppProtocol::Tcp => Self::Tcp,
            AppProtocol::ServerFirst => Self::ServerFirst,
            AppProtocol::Postgres => Self::Postgres,
        }
    }
}

impl Transport {
    pub(super) fn read(value: i32) -> Result<Self, ModelError> {
        match wire::Transport::try_from(value) {
            Ok(wire::Transport::MeshOnly) => Ok(Self::MeshOnly),
            Ok(wire::Transport::HttpsOnly) => Ok(Self::HttpsOnly),
            Ok(wire::Transport::Permissive) => Ok(Self::Permissive),
            Ok(wire::Transport::Unspecified) | Err(_) => Err(unknown_value("transport", value)),
        }
    }
}

impl From<Transport> for wire::Transport {
    fn from(t: Transport) -> Self {
        match t {
            Transport::MeshOnly => Self::MeshOnly,
            Transport::HttpsOnly => Self::HttpsOnly,
            Transport::Permissive => Self::Permissive,
        }
    }
}

impl TlsVersion {
    pub(super) fn read(value: i32) -> Result<Self, ModelError> {
        match wire::TlsVersion::try_from(value) {
            Ok(wire::TlsVersion::TlsVersion10) => Ok(Self::V1_0),
            Ok(wire::TlsVersion::TlsVersion11) => Ok(Self::V1_1),
            Ok(wire::TlsVersion::TlsVersion12) => Ok(Self::V1_2),
            Ok(wire::TlsVersion::TlsVersion13) => Ok(Self::V1_3),
            Ok(wire::TlsVersion::Unspecified) | Err(_) => Err(unknown_value("min_tls_version", value)),
        }
    }

    /// From the two bytes of a TLS record or hello (RFC 8446 §4.2.1); `None` for SSL 3 and older, GREASE and drafts.
    pub fn from_wire(version: u16) -> Option<Self> {
        match version {
            0x0301 => Some(Self::V1_0),
            0x0302 => Some(Self::V1_1),
            0x0303 => Some(Self::V1_2),
            0x0304 => Some(Self::V1_3),
            _ => None,
        }
    }
}

impl From<TlsVersion> for wire::TlsVersion {
    fn from(v: TlsVersion) -> Self {
        match v {
            TlsVersion::V1_0 => Self::TlsVersion10,
            TlsVersion::V1_1 => Self::TlsVersion11,
            TlsVersion::V1_2 => Self::TlsVersion12,
            TlsVersion::V1_3 => Self::TlsVersion13,
        }
    }
}
