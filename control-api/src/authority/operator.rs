//! The first operator's credentials, `operator.yaml` in the state directory.

use super::own::issue_here;
use crate::identity::issuer::Issuer;
use isthmus_certs::private_file::replace;
use isthmus_certs::{Clock, SpiffeId, peer_identity, pem};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

const OPERATOR_LIFETIME: Duration = Duration::from_secs(180 * 86_400);
/// A file that ends sooner is made anew at start.
const OPERATOR_LEFT: Duration = Duration::from_secs(30 * 86_400);
const OPERATOR_FILE: &str = "operator.yaml";

/// `operator.yaml`, as the cli reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperatorFile {
    address: String,
    roots: String,
    certificate: String,
}

/// Makes `<state_dir>/operator.yaml` if it is not there, ends soon, or belongs to another address or root. Returns its
/// path if it was made.
pub fn write_operator(
    issuer: &Issuer,
    state_dir: &Path,
    address: &str,
    clock: &dyn Clock,
) -> Result<Option<PathBuf>, String> {
    let path = state_dir.join(OPERATOR_FILE);
    let authorities = issuer.authorities();
    let roots = pem::write(authorities.bundle().roots(), None).map_err(|error| error.to_string())?;
    if is_current(&path, address, &roots, clock) {
        return Ok(None);
    }
    let id = SpiffeId::operator(authorities.trust_domain(), "admin").map_err(|error| error.to_string())?;
    let identity = issue_here(issuer, &id, OPERATOR_LIFETIME, clock)?;
    let certificate = pem::write(&identity.chain, None).map_err(|error| error.to_string())?;
    let key = pem::write(&[], Some(&identity.key)).map_err(|error| error.to_string())?;
    // Room for all of it at once: a String that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(4096 + 2 * (roots.len() + certificate.len() + key.len())));
    text.push_str(&format!("address: \"{address}\"\ntrustDomain: {}\n", authorities.trust_domain()));
    for (name, pem) in [("roots", &roots), ("certificate", &certificate), ("key", &key)] {
        text.push_str(name);
        text.push_str(": |\n");
        for line in pem.lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
    }
    replace(state_dir, OPERATOR_FILE, text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(path))
}

fn is_current(path: &Path, address: &str, roots: &str, clock: &dyn Clock) -> bool {
    let Ok(text) = fs::read_to_string(path).map(Zeroizing::new) else {
        return false;
    };
    let Ok(file) = serde_saphyr::from_str::<OperatorFile>(&text) else {
        return false;
    };
    let Ok(parts) = pem::parse(file.certificate.as_bytes()) else {
        return false;
    };
    let Ok(identity) = peer_identity(&parts.certificates) else {
        return false;
    };
    let lasts = identity.not_after.as_secs() > clock.now().as_secs() + OPERATOR_LEFT.as_secs();
    lasts && file.address == address && file.roots.trim() == roots.trim()
}
