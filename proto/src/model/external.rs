//! A service outside of the mesh: where it is, and the TLS that the caller's proxy begins towards it.

use std::collections::BTreeMap;

use super::error::{bounded, port};
use super::{HealthCheck, MAX_LIST, MAX_TEXT, ModelError};
use crate::discovery::v1 as wire;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct External {
    /// Lower case; `None`: its endpoints are addresses.
    pub name: Option<String>,
    /// With a name: service port to port there.
    pub target_ports: BTreeMap<u16, u16>,
    pub tls: Option<TlsOrigination>,
    /// How endpoints without sidecar are probed; `None`: they are not.
    pub health: Option<HealthCheck>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsOrigination {
    /// SNI, and what the certificate has to be for.
    pub server_name: String,
    /// Empty: the roots of the host.
    pub roots_der: Vec<Vec<u8>>,
    /// Certificate and key, files on the caller's host.
    pub client: Option<(String, String)>,
}

impl TryFrom<wire::External> for External {
    type Error = ModelError;

    fn try_from(e: wire::External) -> Result<Self, ModelError> {
        let target = |(from, to)| Ok((port("target_ports", from)?, port("target_ports", to)?));
        Ok(Self {
            name: if e.name.is_empty() { None } else { Some(host("name", &e.name)?) },
            target_ports: e.target_ports.into_iter().map(target).collect::<Result<_, ModelError>>()?,
            tls: e.tls.map(TlsOrigination::try_from).transpose().map_err(|e| e.within("tls"))?,
            health: match e.health_check.map(HealthCheck::read) {
                None => None,
                Some(read) => read.map_err(|e| e.within("health_check"))?,
            },
        })
    }
}

impl TryFrom<wire::TlsOrigination> for TlsOrigination {
    type Error = ModelError;

    fn try_from(t: wire::TlsOrigination) -> Result<Self, ModelError> {
        bounded("roots_der", &t.roots_der, MAX_LIST)?;
        let client = match (t.client_certificate, t.client_key) {
            (certificate, key) if certificate.is_empty() && key.is_empty() => None,
            (certificate, key) if certificate.starts_with('/') && key.starts_with('/') => Some((certificate, key)),
            _ => {
                return Err(ModelError::new("client_certificate", "certificate and key, both absolute paths, or none"));
            }
        };
        Ok(Self { server_name: host("server_name", &t.server_name)?, roots_der: t.roots_der, client })
    }
}

fn host(field: &str, text: &str) -> Result<String, ModelError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if text.is_empty() || text.len() > MAX_TEXT.min(253) || !text.bytes().all(fits) {
        return Err(ModelError::new(field, "not a host name"));
    }
    Ok(text.trim_end_matches('.').to_ascii_lowercase())
}

impl From<External> for wire::External {
    fn from(e: External) -> Self {
        Self {
            name: e.name.unwrap_or_default(),
            target_ports: e.target_ports.into_iter().map(|(from, to)| (from.into(), to.into())).collect(),
            tls: e.tls.map(Into::into),
            health_check: e.health.map(Into::into),
        }
    }
}

impl From<TlsOrigination> for wire::TlsOrigination {
    fn from(t: TlsOrigination) -> Self {
        let (client_certificate, client_key) = t.client.unwrap_or_default();
        Self { server_name: t.server_name, roots_der: t.roots_der, client_certificate, client_key }
    }
}
