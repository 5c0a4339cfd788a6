//! Our roots as others read them: a SPIFFE bundle, which is a JWK set (SPIFFE_Trust_Domain_and_Bundle, 4; RFC 7517). Only
//! public things go in.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use x509_parser::public_key::PublicKey;

use crate::bundle::TrustBundle;
use crate::leaf;

/// How often those who hold a copy may want a new one, in seconds. Nobody here fetches by it: SPIFFE wants a hint.
const REFRESH_HINT: u32 = 3_600;

/// `None`: a root has a key of a kind that no JWK is made of here (neither RSA nor P-256, P-384, P-521).
pub fn json(bundle: &TrustBundle) -> Option<String> {
    let keys: Option<Vec<String>> = bundle.roots().iter().map(jwk).collect();
    let keys = keys?.join(",\n    ");
    Some(format!("{{\n  \"spiffe_refresh_hint\": {REFRESH_HINT},\n  \"keys\": [\n    {keys}\n  ]\n}}\n"))
}

/// Each value is base64 or a word of ours: nothing in it needs escaping.
fn jwk(root: &CertificateDer<'_>) -> Option<String> {
    let cert = leaf::parse(root).ok()?;
    let key = cert.public_key().parsed().ok()?;
    let of_key = match key {
        PublicKey::EC(point) => {
            // Uncompressed (SEC 1, 2.3.3): 4, x, y.
            let (four, rest) = point.data().split_first()?;
            let (x, y) = rest.split_at_checked(rest.len() / 2).filter(|(x, y)| *four == 4 && x.len() == y.len())?;
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                66 => "P-521",
                _ => return None,
            };
            format!(r#""kty": "EC", "crv": "{curve}", "x": "{}", "y": "{}""#, url(x), url(y))
        }
        PublicKey::RSA(key) => {
            // DER puts a zero before a number that would look negative; a JWK has none (RFC 7518, 6.3.1).
            let number = |bytes: &[u8]| url(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
            format!(r#""kty": "RSA", "n": "{}", "e": "{}""#, number(key.modulus), number(key.exponent))
        }
        _ => return None,
    };
    Some(format!(r#"{{ "use": "x509-svid", {of_key}, "x5c": ["{}"] }}"#, STANDARD.encode(root)))
}

fn url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
#[path = "spiffe_bundle_test.rs"]
mod spiffe_bundle_test;
