//! How the proxy proves who it is where nobody gave it a join token: whom it trusts for that (`controlPlane.trustDomain` and
//! `controlPlane.root`, which a join token would carry), and what it shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use isthmus_certs::{RootFingerprint, TrustDomain};
use serde::Deserialize;

use super::error::Problem;
use super::field::{Field, FromScalar, take_optional};

/// Where Azure's instance metadata service is, on every VM.
const METADATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// First contact without a join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrol {
    pub trust_domain: TrustDomain,
    /// SHA-256 of the control plane's root, as `isthmus certs --json` shows it.
    pub root: RootFingerprint,
    pub by: EnrolBy,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolBy {
    /// This machine's certificate of a company's own CA, which `control.yaml` names.
    Certificate { authority: String, certificate_file: PathBuf, key_file: PathBuf },
    /// The pod's projected service-account token; read anew for each try.
    Kubernetes { cluster: String, token_file: PathBuf },
    /// The attested document of this VM.
    Azure { metadata: SocketAddr },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) enum EnrolFile {
    #[serde(rename_all = "camelCase")]
    Certificate { authority: String, certificate_file: PathBuf, key_file: PathBuf },
    #[serde(rename_all = "camelCase")]
    Kubernetes { cluster: String, token_file: PathBuf },
    Azure {
        #[serde(default)]
        metadata: Option<SocketAddr>,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ControlPlaneFile {
    pub(super) address: Field<super::field::HostPort>,
    trust_domain: Field<TrustDomain>,
    root: Field<RootFingerprint>,
}

impl ControlPlaneFile {
    /// What the control plane's part and the way to enrol make together.
    pub(super) fn enrol(self, file: Option<EnrolFile>, problems: &mut Vec<Problem>) -> Option<Enrol> {
        let before = problems.len();
        let trust_domain = take_optional(self.trust_domain, "controlPlane.trustDomain", problems);
        let root = take_optional(self.root, "controlPlane.root", problems);
        let by = match file? {
            EnrolFile::Certificate { authority, certificate_file, key_file } => {
                EnrolBy::Certificate { authority, certificate_file, key_file }
            }
            EnrolFile::Kubernetes { cluster, token_file } => EnrolBy::Kubernetes { cluster, token_file },
            EnrolFile::Azure { metadata } => EnrolBy::Azure { metadata: metadata.unwrap_or(METADATA) },
        };
        let (Some(trust_domain), Some(root)) = (trust_domain, root) else {
            if problems.len() == before {
                let message = "without a join token, controlPlane.trustDomain and controlPlane.root say whom to trust \
                               at first contact"
                    .to_owned();
                problems.push(Problem { at: None, field: "enrol".to_owned(), message });
            }
            return None;
        };
        Some(Enrol { trust_domain, root, by })
    }
}

impl FromScalar for TrustDomain {
    fn from_scalar(text: &str) -> Result<Self, String> {
        TrustDomain::parse(text).map_err(|error| error.to_string())
    }
}

impl FromScalar for RootFingerprint {
    fn from_scalar(text: &str) -> Result<Self, String> {
        RootFingerprint::parse(text).map_err(|error| error.to_string())
    }
}
