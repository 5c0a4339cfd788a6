//! The CA's files, for all control planes on one store: the first one puts its own there, every other one takes them. A
//! change of roots is made by the one that leads, and told to the others with the change of trust.
//!
//! Keys stand in the store as they stand in the files. Refused: a shared store where both would be in plain.

use super::set::{CA_DIR, MANIFEST};
use crate::config::{Config, Keys};
use crate::store::Store;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use isthmus_certs::private_file;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

const FACT: &str = "ca/files";

/// Keys that leave the machine must not be readable where they go.
pub fn check(config: &Config) -> Result<(), String> {
    let plain = matches!(&config.authority.keys, Keys::File(file) if file.passphrase_file.is_none());
    match config.store.etcd.is_some() && plain && config.store.encryption.is_none() {
        true => Err("with store.etcd the CA's keys are shared by way of etcd: set store.encryption, or \
                     authority.keys.file.passphraseFile or authority.keys.pkcs11, so that they are not in plain there"
            .to_string()),
        false => Ok(()),
    }
}

/// Writes down here what the store has. False: it has none.
pub fn fetch(store: &dyn Store, state_dir: &Path) -> Result<bool, String> {
    let Some(value) = store.fact(FACT).map_err(|error| error.to_string())? else { return Ok(false) };
    let files: BTreeMap<String, String> = serde_json::from_value(value).map_err(|error| format!("{FACT}: {error}"))?;
    let dir = state_dir.join(CA_DIR);
    // What says which is which comes last: until then the old ones are good.
    let (manifest, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == MANIFEST);
    for (name, text) in others.into_iter().chain(manifest) {
        let path = Path::new(name);
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("{FACT}: {name} is no file of a CA"));
        }
        let bytes = STANDARD.decode(text).map_err(|error| format!("{FACT}: {name}: {error}"))?;
        let whole = dir.join(path);
        let failed = |error: std::io::Error| format!("{}: {error}", whole.display());
        if fs::read(&whole).is_ok_and(|present| present == bytes) {
            continue;
        }
        let parent = whole.parent().unwrap_or(&dir);
        private_file::make_dir(parent).map_err(failed)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        private_file::replace(parent, name, &bytes).map_err(failed)?;
    }
    Ok(true)
}

/// Puts ours there, if nobody's are. False: somebody was first, and ours are of no use.
pub fn offer(store: &dyn Store, state_dir: &Path) -> Result<bool, String> {
    let ours = files(state_dir)?;
    store.swap_fact(FACT, None, Some(&ours)).map_err(|error| error.to_string())
}

/// A CA that was made in vain: nothing was issued by it.
pub fn put_aside(state_dir: &Path) -> Result<(), String> {
    let (from, to) = (state_dir.join(CA_DIR), state_dir.join(format!("{CA_DIR}.unused")));
    fs::rename(&from, &to).map_err(|error| format!("{}: {error}", from.display()))
}

/// Ours take the place of what is there. The leader alone may.
pub fn publish(store: &dyn Store, state_dir: &Path) -> Result<(), String> {
    let ours = files(state_dir)?;
    let seen = store.fact(FACT).map_err(|error| error.to_string())?;
    match store.swap_fact_leading(FACT, seen.as_ref(), Some(&ours)).map_err(|error| error.to_string())? {
        true => Ok(()),
        false => Err("another control plane changed the CA at the same time".to_string()),
    }
}

fn files(state_dir: &Path) -> Result<Value, String> {
    let dir = state_dir.join(CA_DIR);
    let mut found = BTreeMap::new();
    collect(&dir, &dir, &mut found)?;
    Ok(json!(found))
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if !name.rsplit('/').next().unwrap_or_default().starts_with('.') {
            let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            found.insert(name, STANDARD.encode(bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "shared_test.rs"]
mod shared_test;
