//! Who somebody is: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! Pods and VMs have the same form, so moving a workload changes no policy. Everything else that SPIFFE would allow is
//! refused here: other paths, upper case, percent-encoding, ports, user info, queries. There is exactly one spelling of
//! an identity, so comparing bytes compares identities.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// SPIFFE-ID §2.1: a trust domain has at most 255 bytes.
pub const MAX_TRUST_DOMAIN: usize = 255;
/// RFC 1123 label, what Kubernetes allows as a namespace.
pub const MAX_NAMESPACE: usize = 63;
/// RFC 1123 subdomain, what Kubernetes allows as a service account.
pub const MAX_SERVICE_ACCOUNT: usize = 253;

/// The namespace that the control plane and operators live in. No workload may be given an identity in it.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";
const CONTROL_ACCOUNT: &str = "control";
const OPERATOR_PREFIX: &str = "operator-";

/// Why a text is not a trust domain or a SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a SPIFFE id starts with `spiffe://`")]
    Scheme,
    #[error("trust domain: 1 to 255 of a-z 0-9 . - _, no empty label, and no label that starts or ends with `-`")]
    TrustDomain,
    #[error("a mesh identity reads `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`, nothing more")]
    Path,
    #[error("namespace: 1 to 63 of a-z 0-9 -, starting and ending with a letter or digit")]
    Namespace,
    #[error("service account: 1 to 253 of a-z 0-9 - ., each label starting and ending with a letter or digit")]
    ServiceAccount,
}

/// The name that all identities of one mesh share. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Accepts the bare name, as in `shop.example`; not a `spiffe://` URI.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let ok = (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.split('.').all(|label| is_label(label, true));
        if ok { Ok(Self(text.into())) } else { Err(IdError::TrustDomain) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `spiffe://<trust-domain>`, as CA certificates carry it (X509-SVID §4.2).
    pub fn uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

/// One identity. Cheap to clone: one shared allocation.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parts>);

struct Parts {
    uri: Box<str>,
    trust_domain: TrustDomain,
    // Where the two names lie in `uri`. The longest uri has 13 + 255 + 63 + 253 + … < 2^16 bytes.
    namespace: (u16, u16),
    service_account: u16,
}

impl SpiffeId {
    /// Parses the one accepted spelling; see the module's doc.
    pub fn parse(uri: &str) -> Result<Self, IdError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(IdError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(IdError::Path)?;
        let trust_domain = TrustDomain::parse(trust_domain)?;
        let mut segments = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(IdError::Path);
        };
        Self::workload(&trust_domain, namespace, account)
    }

    /// The identity of a service account in a namespace.
    pub fn workload(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdError> {
        if namespace.len() > MAX_NAMESPACE || !is_label(namespace, false) {
            return Err(IdError::Namespace);
        }
        if service_account.len() > MAX_SERVICE_ACCOUNT || !service_account.split('.').all(|l| is_label(l, false)) {
            return Err(IdError::ServiceAccount);
        }
        let start = "spiffe://".len() + trust_domain.0.len() + "/ns/".len();
        let end = start + namespace.len();
        let account = end + "/sa/".len();
        Ok(Self(Arc::new(Parts {
            uri: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            trust_domain: trust_domain.clone(),
            namespace: (start as u16, end as u16),
            service_account: account as u16,
        })))
    }

    /// The control plane's own identity in this trust domain.
    pub fn control_plane(trust_domain: &TrustDomain) -> Self {
        Self::workload(trust_domain, SYSTEM_NAMESPACE, CONTROL_ACCOUNT).expect("both names are constants of valid form")
    }

    /// The identity of the operator `name`, who may use the admin API.
    pub fn operator(trust_domain: &TrustDomain, name: &str) -> Result<Self, IdError> {
        Self::workload(trust_domain, SYSTEM_NAMESPACE, &format!("{OPERATOR_PREFIX}{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.0.uri[self.0.namespace.0 as usize..self.0.namespace.1 as usize]
    }

    pub fn service_account(&self) -> &str {
        &self.0.uri[self.0.service_account as usize..]
    }

    /// Lies in the namespace that belongs to the mesh itself: never given to a workload.
    pub fn is_system(&self) -> bool {
        self.namespace() == SYSTEM_NAMESPACE
    }

    pub fn is_control_plane(&self) -> bool {
        self.is_system() && self.service_account() == CONTROL_ACCOUNT
    }

    /// The operator's name, if this is one.
    pub fn operator_name(&self) -> Option<&str> {
        self.is_system().then(|| self.service_account().strip_prefix(OPERATOR_PREFIX)).flatten()
    }
}

/// A DNS-like label. Trust domains may also hold `_` (SPIFFE-ID §2.1); Kubernetes names may not.
fn is_label(label: &str, underscore: bool) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (underscore && b == b'_');
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.uri == other.0.uri
    }
}
impl Eq for SpiffeId {}
impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uri.hash(state);
    }
}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.uri.cmp(&other.0.uri)
    }
}

/// The text form is the type's Display, Debug, serde and FromStr form alike.
macro_rules! text_form {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_form!(TrustDomain);
text_form!(SpiffeId);

#[cfg(test)]
#[path = "id_test.rs"]
mod id_test;
