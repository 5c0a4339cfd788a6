//! The store that `control.yaml` names, opened.

use super::{Codec, EmbeddedStore, EtcdOptions, EtcdStore, Store, StoreError, Wrap};
use crate::config::{Config, EtcdConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of the embedded store.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("store.redb")
}

/// As the configuration says. The state directory is there.
pub fn configured(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let codec = codec(config)?;
    Ok(match &config.store.etcd {
        None => Arc::new(EmbeddedStore::open_with(&file(&config.state_dir), codec)?),
        Some(etcd) => Arc::new(EtcdStore::open(options(etcd), codec)?),
    })
}

/// How its values are written and read.
pub fn codec(config: &Config) -> Result<Codec, StoreError> {
    match &config.store.encryption {
        None => Ok(Codec::default()),
        Some(keys) => Wrap::configured(keys).map(Codec::encrypted).map_err(StoreError::Sealed),
    }
}

pub fn options(etcd: &EtcdConfig) -> EtcdOptions {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        prefix: etcd.prefix.clone(),
        ca_file: etcd.ca_file.clone(),
        certificate_file: etcd.certificate_file.clone(),
        key_file: etcd.key_file.clone(),
        replica: etcd.replica.clone().unwrap_or_else(host),
        ..EtcdOptions::default()
    }
}

/// For a tool on a control plane's host.
pub fn apart(etcd: &EtcdConfig, codec: Codec) -> Result<EtcdStore, StoreError> {
    EtcdStore::open(EtcdOptions { apart: true, replica: String::new(), ..options(etcd) }, codec)
}

/// Wraps the data key of the configured store by what the configuration says now; `former` is the one of before.
pub fn rewrap(config: &Config, former: &Config) -> Result<(), StoreError> {
    let wrap = |config: &Config| match &config.store.encryption {
        None => Err(StoreError::Sealed("store.encryption is missing; an encrypted store is made by migrating".into())),
        Some(keys) => Wrap::configured(keys).map_err(StoreError::Sealed),
    };
    let (former, new) = (wrap(former)?, wrap(config)?);
    match &config.store.etcd {
        None => EmbeddedStore::rewrap(&file(&config.state_dir), &former, &new),
        Some(etcd) => {
            let store = apart(etcd, Codec::encrypted(former.clone()))?;
            store.rewrap(former, new)
        }
    }
}
