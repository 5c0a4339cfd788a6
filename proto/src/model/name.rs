//! Names as newtypes, so that a site cannot be passed where a service is meant. Cheap to clone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const MAX_NAME: usize = 253;

/// The name of a site, as in `azure-eastus`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteName(Arc<str>);

/// `<namespace>/<name>` of a service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

/// `<namespace>/<name>` of a workload.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name is 1 to 253 of a-z 0-9 - . and starts and ends with a letter or digit")]
    Name,
    #[error("reads `<namespace>/<name>`")]
    Qualified,
}

fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.iter().all(|&b| inside(b) || b == b'-' || b == b'.')
        && bytes.first().is_some_and(|&b| inside(b))
        && bytes.last().is_some_and(|&b| inside(b))
}

impl FromStr for SiteName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        is_name(text).then(|| Self(text.into())).ok_or(NameError::Name)
    }
}

fn qualified(text: &str) -> Result<Arc<str>, NameError> {
    let (namespace, name) = text.split_once('/').ok_or(NameError::Qualified)?;
    if is_name(namespace) && is_name(name) { Ok(text.into()) } else { Err(NameError::Name) }
}

macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

macro_rules! in_a_namespace {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                qualified(text).map(Self)
            }
        }

        impl $name {
            pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
                format!("{namespace}/{name}").parse()
            }

            pub fn namespace(&self) -> &str {
                self.0.split_once('/').map_or("", |(namespace, _)| namespace)
            }

            pub fn name(&self) -> &str {
                self.0.split_once('/').map_or("", |(_, name)| name)
            }
        }
    )*};
}

shown_as_text!(SiteName, ServiceName, WorkloadName);
in_a_namespace!(ServiceName, WorkloadName);
