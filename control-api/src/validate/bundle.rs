//! The roots of another mesh, in the two forms in which they are handed over.

use super::field::Field;
use super::resource::TrustDomain;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use isthmus_certs::{TrustBundle, pem};
use serde::Deserialize;

/// A trust domain's name, where one is written.
pub(super) fn name(field: &Field) -> Option<isthmus_certs::TrustDomain> {
    let text = field.word()?;
    isthmus_certs::TrustDomain::parse(text).map_err(|error| field.fault(format!("`{text}`: {error}"))).ok()
}

/// `kind: TrustDomain`: the roots, as PEM or as the SPIFFE bundle that the other mesh publishes.
pub(super) fn trust_domain(spec: &Field) -> TrustDomain {
    spec.only(&["trustDomain", "pem", "spiffeBundle"], &[]);
    let name = spec.need("trustDomain").and_then(|f| name(&f));
    let mut bundle = TrustBundle::empty();
    match (spec.get("pem"), spec.get("spiffeBundle")) {
        (Some(field), None) => bundle = read(&field, from_pem),
        (None, Some(field)) => bundle = read(&field, from_spiffe),
        _ => spec.fault("needs its roots, as either `pem` or `spiffeBundle`"),
    }
    TrustDomain { name, bundle }
}

fn read(field: &Field, by: fn(&str) -> Result<TrustBundle, String>) -> TrustBundle {
    let Some(text) = field.text() else { return TrustBundle::empty() };
    by(text).map_err(|why| field.fault(why)).unwrap_or_default()
}

/// Certificates, one after another.
pub(super) fn from_pem(text: &str) -> Result<TrustBundle, String> {
    let roots = pem::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    if roots.key.is_some() {
        return Err("holds a private key; a bundle is public, and this key is no longer secret".to_string());
    }
    TrustBundle::from_ders(&roots.certificates).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct Bundle {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "use", default)]
    purpose: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// A SPIFFE bundle (SPIFFE_Trust_Domain_and_Bundle, 4): a JWK set. Keys for anything but X.509-SVIDs are passed over, as
/// are those without a purpose.
pub(super) fn from_spiffe(text: &str) -> Result<TrustBundle, String> {
    let bundle: Bundle = serde_json::from_str(text).map_err(|error| format!("is no SPIFFE bundle: {error}"))?;
    let mut roots = Vec::new();
    for key in bundle.keys.iter().filter(|key| key.purpose == "x509-svid") {
        let [root] = &key.x5c[..] else {
            return Err("a key for `x509-svid` has one certificate in `x5c`".to_string());
        };
        roots.push(BASE64_STANDARD.decode(root).map_err(|error| format!("x5c: {error}"))?);
    }
    TrustBundle::from_ders(&roots).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "bundle_test.rs"]
mod bundle_test;
