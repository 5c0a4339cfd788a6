//! The file that a sign-in ends in, in the form of operator.yaml, and whether one is over.

use std::path::Path;

use isthmus_certs::{Clock, SystemClock, TrustDomain, WorkloadIdentity, peer_identity, pem, private_file};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::operator::Operator;

pub(crate) const SESSION: &str = "session.yaml";

/// Readable by its owner alone from the first byte, and replaced in one step.
pub(super) fn write(
    out: &Path,
    address: &str,
    trust_domain: &TrustDomain,
    identity: &WorkloadIdentity,
) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(format!("{}: {e}", out.display()), "choose a file in a directory of yours with --out FILE")
    };
    let (Some(name), dir) = (out.file_name().and_then(|name| name.to_str()), out.parent()) else {
        return Err(failed(&"no file's name"));
    };
    let dir = dir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    private_file::make_dir(dir).map_err(|e| failed(&e))?;
    let roots = pem::write(identity.bundle.roots(), None).map_err(|e| failed(&e))?;
    let certificate = pem::write(&identity.chain, None).map_err(|e| failed(&e))?;
    let key = pem::write(&[], Some(&identity.key)).map_err(|e| failed(&e))?;
    // Room for all of it at once: a String that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(4096 + 2 * (roots.len() + certificate.len() + key.len())));
    text.push_str(&format!("address: \"{address}\"\ntrustDomain: {trust_domain}\n"));
    for (name, pem) in [("roots", &roots), ("certificate", &certificate), ("key", &key)] {
        text.push_str(name);
        text.push_str(": |\n");
        for line in pem.lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
    }
    private_file::replace(dir, name, text.as_bytes()).map_err(|e| failed(&e))
}

/// Whether the certificate in it has ended, or cannot be read at all.
pub(crate) fn is_over(operator: &Operator) -> bool {
    let chain = pem::parse(operator.certificate.as_bytes()).map(|parts| parts.certificates);
    let identity = chain.ok().and_then(|chain| peer_identity(&chain).ok());
    identity.is_none_or(|identity| identity.not_after <= SystemClock.now())
}
