//! Who signs: the CA, its keys, and what hangs on them: the control plane's own leaf and the first operator's
//! credentials.
//!
//! All of it lives in `stateDir` (keys may be in a token instead), each file 0600 and replaced in one step, so that a kill
//! at any moment leaves either the old or the new.

mod operator;
mod own;
mod pkcs11;
pub mod rotation;
mod sealed;
mod set;
pub mod shared;

pub use operator::write_operator;
pub use own::Own;
#[cfg(test)]
pub(crate) use own::issue_here;
pub use set::{Authorities, Other, Role};

use crate::config::{self, Keys};
use isthmus_certs::vault::{KeyVault, PlainVault, Vaults};
pub(crate) use pkcs11::TokenVault;
pub(crate) use sealed::SealedVault;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

#[cfg(test)]
#[path = "vault_contract_test.rs"]
mod vault_contract_test;

#[cfg(test)]
#[path = "external_test.rs"]
mod external_test;

/// Opens the places where keys are: new ones are made in the first. Plain files are read wherever they are left over.
pub fn vault(config: &config::Authority) -> Result<Arc<dyn KeyVault>, String> {
    let mut vaults = vec![one(&config.keys)?];
    for former in &config.former_keys {
        vaults.push(one(former)?);
    }
    vaults.push(Arc::new(PlainVault));
    Ok(Arc::new(Vaults(vaults)))
}

fn one(keys: &Keys) -> Result<Arc<dyn KeyVault>, String> {
    match keys {
        Keys::File(file) => match &file.passphrase_file {
            Some(path) => Ok(Arc::new(SealedVault::from_file(path)?)),
            None => Ok(Arc::new(PlainVault)),
        },
        Keys::Pkcs11(token) => {
            let pin = read_pin(&token.pin_file)?;
            Ok(Arc::new(TokenVault::open(&token.module, &token.token, pin)?))
        }
    }
}

pub(crate) fn read_pin(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{}: mode {mode:04o} lets others read the token's PIN; chmod 600", path.display()));
    }
    let mut text = Zeroizing::new(String::with_capacity(1024));
    file.take(1024).read_to_string(&mut text).map_err(failed)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
