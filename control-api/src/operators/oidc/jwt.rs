//! An id token, checked: who signed it, for whom, and whether it is good now. Pure.
//!
//! The key says which algorithms it may be used with, and the token's header only picks among those: `none`, HMAC and a
//! key of another kind are refused, so that nobody passes off a public key as a shared secret. Refused as well: a header
//! that asks for something not understood here (`crit`), another issuer or audience, a token before its time or after it,
//! a nonce that is not ours.

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

/// With 200 groups, Entra ID's are some 12 KiB.
const LONGEST: usize = 64 << 10;
/// Clocks differ.
const LEEWAY_S: i64 = 60;
/// Keys of one provider. There are two or three, around a rotation a few more.
const MOST_KEYS: usize = 64;

/// A provider's public keys.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
}

/// What a token has to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    pub nonce: &'a str,
    /// Some providers leave the nonce out of a device's sign-in.
    pub nonce_required: bool,
    pub groups_claim: &'a str,
    pub now_s: i64,
}

/// Who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    /// As people read it; worth nothing as an identity.
    pub display_name: String,
    pub groups: Vec<String>,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is no signed token in the compact form")]
    Form,
    #[error("its algorithm is `{0}`; RS256, PS256 and ES256 are accepted")]
    Algorithm(String),
    #[error("none of the provider's keys fits it")]
    Key,
    #[error("its signature is not that of the provider's key")]
    Signature,
    #[error("it is of issuer `{0}`, which is not the one that is configured")]
    Issuer(String),
    #[error("it was made for another client than this control plane's clientId")]
    Audience,
    #[error("it has ended, or says no time")]
    Ended,
    #[error("it is not good yet; one of the two clocks is wrong")]
    TooEarly,
    #[error("its nonce is not the one of this sign-in")]
    Nonce,
    #[error("it names no subject")]
    Subject,
    #[error(
        "the provider left the groups out because there are too many; let it tell only the groups that are assigned to \
         this application"
    )]
    TooManyGroups,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Keys {
    /// From a JWK Set (RFC 7517). Keys of kinds that are not used here are passed over.
    pub fn read(json: &[u8]) -> Result<Keys, String> {
        let set: Value = serde_json::from_slice(json).map_err(|error| format!("not a key set: {error}"))?;
        let all = set.get("keys").and_then(Value::as_array).ok_or("not a key set: it has no `keys`")?;
        let keys: Vec<Key> = all.iter().take(MOST_KEYS).filter_map(key).collect();
        if keys.is_empty() { Err("no RSA or P-256 key for signatures is in it".to_string()) } else { Ok(Keys(keys)) }
    }

    fn fitting<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = &'a Key> {
        let named = |key: &&Key| match &header.kid {
            Some(kid) => key.id.as_ref() == Some(kid),
            None => true,
        };
        let may = |key: &&Key| {
            let kind = match key.material {
                Material::Rsa { .. } => matches!(header.alg.as_str(), "RS256" | "PS256"),
                Material::P256(_) => header.alg == "ES256",
            };
            kind && key.algorithm.as_ref().is_none_or(|only| *only == header.alg)
        };
        self.0.iter().filter(named).filter(may)
    }
}

fn key(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|r#use| r#use != "sig") {
        return None;
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let material = match (text("kty")?, text("crv")) {
        ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == 32 && y.len() == 32).then_some(())?;
            Material::P256([&[4][..], &x, &y].concat())
        }
        _ => return None,
    };
    Some(Key { id: text("kid").map(str::to_string), algorithm: text("alg").map(str::to_string), material })
}

/// Who signed in, if all of it holds.
pub fn verify(token: &str, keys: &Keys, expected: Expected) -> Result<Claims, Fault> {
    if token.len() > LONGEST {
        return Err(Fault::Form);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Fault::Form)?;
    let (header, payload) = signed.split_once('.').ok_or(Fault::Form)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Form);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| Fault::Form)?;
    if !matches!(header.alg.as_str(), "RS256" | "PS256" | "ES256") {
        return Err(Fault::Algorithm(header.alg.chars().take(20).collect()));
    }
    if header.crit.is_some() {
        return Err(Fault::Form);
    }
    let signature = decoded(signature)?;
    let mut fitting = keys.fitting(&header).peekable();
    fitting.peek().ok_or(Fault::Key)?;
    if !fitting.any(|key| key.signed(&header.alg, signed.as_bytes(), &signature)) {
        return Err(Fault::Signature);
    }
    // Only now is anything believed that it says.
    let claims: Value = serde_json::from_slice(&decoded(payload)?).map_err(|_| Fault::Form)?;
    check(&claims, expected)
}

impl Key {
    fn signed(&self, algorithm: &str, message: &[u8], sign: &[u8]) -> bool {
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, "RS256") => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, sign).is_ok()
            }
            (Material::Rsa { n, e }, "PS256") => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PSS_2048_8192_SHA256, message, sign).is_ok()
            }
            (Material::P256(point), "ES256") => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, sign).is_ok()
            }
            _ => false,
        }
    }
}

fn check(claims: &Value, expected: Expected) -> Result<Claims, Fault> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as i64);
    match text("iss") {
        Some(issuer) if issuer == expected.issuer => {}
        other => return Err(Fault::Issuer(other.unwrap_or_default().chars().take(200).collect())),
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    // OpenID Connect Core §3.1.3.7: one that is for several must say who asked for it.
    let asked = text("azp").map_or(audiences.len() == 1, |azp| azp == expected.audience);
    if !audiences.contains(&expected.audience) || !asked {
        return Err(Fault::Audience);
    }
    if time("exp").is_none_or(|exp| exp.saturating_add(LEEWAY_S) <= expected.now_s) {
        return Err(Fault::Ended);
    }
    if [time("nbf"), time("iat")].into_iter().flatten().any(|from| from.saturating_sub(LEEWAY_S) > expected.now_s) {
        return Err(Fault::TooEarly);
    }
    match text("nonce") {
        Some(nonce) if nonce == expected.nonce => {}
        None if !expected.nonce_required && claims.get("nonce").is_none() => {}
        _ => return Err(Fault::Nonce),
    }
    let subject = text("sub").filter(|sub| !sub.is_empty() && sub.len() <= 255).ok_or(Fault::Subject)?;
    let left_out = claims.get("_claim_names").and_then(|names| names.get(expected.groups_claim)).is_some();
    if left_out || claims.get("hasgroups").is_some() {
        return Err(Fault::TooManyGroups);
    }
    let groups = claims.get(expected.groups_claim).and_then(Value::as_array);
    let groups = groups.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    let name = text("preferred_username").or(text("email")).or(text("name")).unwrap_or(subject);
    let display_name = name.chars().filter(|c| !c.is_control()).take(100).collect();
    Ok(Claims { subject: subject.to_string(), display_name, groups })
}

#[cfg(test)]
#[path = "jwt_test.rs"]
pub(crate) mod jwt_test;
