use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

/// A provider's two keys.
pub(crate) struct Signer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
}

pub(crate) static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
});

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn key_set(&self) -> Value {
        // RFC 8017's RSAPublicKey of 2048 bits: SEQUENCE { INTEGER 00 n, INTEGER e }.
        let der = self.rsa.public_key().as_ref();
        let (n, e) = (&der[9..265], &der[267..270]);
        assert_eq!((&der[4..9], e), (&[2, 0x82, 1, 1, 0][..], &[1, 0, 1][..]));
        let point = self.p256.public_key().as_ref();
        json!({ "keys": [
            { "kty": "RSA", "use": "sig", "kid": "rsa-1", "n": b64(n), "e": b64(e) },
            { "kty": "EC", "crv": "P-256", "kid": "ec-1", "alg": "ES256", "x": b64(&point[1..33]), "y": b64(&point[33..]) },
            { "kty": "oct", "kid": "hmac", "k": b64("secret") },
            { "kty": "RSA", "use": "enc", "kid": "enc-1", "n": b64(n), "e": b64(e) },
        ] })
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let random = SystemRandom::new();
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        match header["alg"].as_str() {
            Some("ES256") => signature = self.p256.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Some("PS256") => {
                self.rsa.sign(&signature::RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature).unwrap()
            }
            _ => self.rsa.sign(&signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap(),
        }
        format!("{signed}.{}", b64(signature))
    }
}

const NOW: i64 = 1_800_000_000;
const EXPECTED: Expected = Expected {
    issuer: "https://login.example/tenant/v2.0",
    audience: "isthmus",
    nonce: "the-nonce",
    nonce_required: true,
    groups_claim: "groups",
    now_s: NOW,
};

fn claims() -> Value {
    json!({
        "iss": EXPECTED.issuer, "aud": "isthmus", "sub": "AAAA-1", "exp": NOW + 3600, "nbf": NOW - 5, "iat": NOW - 5,
        "nonce": "the-nonce", "preferred_username": "Ada@shop.example", "groups": ["g-1", "g-2"],
    })
}

fn keys() -> Keys {
    Keys::read(SIGNER.key_set().to_string().as_bytes()).unwrap()
}

fn with(change: impl FnOnce(&mut Value)) -> Result<Claims, Fault> {
    let mut claims = claims();
    change(&mut claims);
    verify(&SIGNER.sign(&json!({ "alg": "RS256", "kid": "rsa-1" }), &claims), &keys(), EXPECTED)
}

#[test]
fn a_good_token_tells_who_it_is_with_each_of_the_three_algorithms() {
    for (alg, kid) in [("RS256", "rsa-1"), ("PS256", "rsa-1"), ("ES256", "ec-1")] {
        let token = SIGNER.sign(&json!({ "alg": alg, "kid": kid, "typ": "JWT" }), &claims());
        let found = verify(&token, &keys(), EXPECTED).unwrap();
        assert_eq!((found.subject.as_str(), found.display_name.as_str()), ("AAAA-1", "Ada@shop.example"));
        assert_eq!(found.groups, ["g-1", "g-2"]);
    }
}

#[test]
fn an_algorithm_is_the_keys_and_not_the_headers_choice() {
    let refused = |header: Value| verify(&SIGNER.sign(&header, &claims()), &keys(), EXPECTED).unwrap_err();
    for alg in ["none", "None", "HS256", "HS512", "RS384", "ES384", "EdDSA", ""] {
        assert_eq!(refused(json!({ "alg": alg, "kid": "rsa-1" })), Fault::Algorithm(alg.to_string()));
    }
    // A key of another kind, one for another use, a shared secret, one that is not there, one bound to another algorithm.
    for (alg, kid) in [
        ("ES256", "rsa-1"),
        ("RS256", "ec-1"),
        ("RS256", "enc-1"),
        ("RS256", "hmac"),
        ("RS256", "gone"),
        ("PS256", "ec-1"),
    ] {
        assert_eq!(refused(json!({ "alg": alg, "kid": kid })), Fault::Key, "{alg} {kid}");
    }
    assert_eq!(refused(json!({ "alg": "RS256", "kid": "rsa-1", "crit": ["b64"] })), Fault::Form);
    // Signed with the one RSA scheme, and said to be the other.
    let token = SIGNER.sign(&json!({ "alg": "RS256", "kid": "rsa-1" }), &claims());
    let (_, rest) = token.split_once('.').unwrap();
    let swapped = format!("{}.{rest}", b64(json!({ "alg": "PS256", "kid": "rsa-1" }).to_string()));
    assert_eq!(verify(&swapped, &keys(), EXPECTED), Err(Fault::Signature));
    // The public key taken for a shared secret, as in the old attack, never gets as far as a signature.
    let forged = format!("{}.{}.{}", b64(json!({ "alg": "HS256" }).to_string()), b64(claims().to_string()), b64("x"));
    assert_eq!(verify(&forged, &keys(), EXPECTED), Err(Fault::Algorithm("HS256".to_string())));
    let bare = format!("{}.{}.", b64(json!({ "alg": "none" }).to_string()), b64(claims().to_string()));
    assert_eq!(verify(&bare, &keys(), EXPECTED), Err(Fault::Algorithm("none".to_string())));
}

#[test]
fn issuer_audience_times_and_nonce_are_checked() {
    assert!(matches!(with(|c| c["iss"] = json!("https://login.example/other/v2.0")), Err(Fault::Issuer(_))));
    assert!(matches!(with(|c| c["iss"] = Value::Null), Err(Fault::Issuer(_))));
    for aud in [json!("other"), json!([]), json!(["other"]), json!(["isthmus", "other"]), Value::Null, json!(7)] {
        assert_eq!(with(|c| c["aud"] = aud.clone()), Err(Fault::Audience), "{aud}");
    }
    assert_eq!(with(|c| c["azp"] = json!("other")), Err(Fault::Audience));
    assert!(with(|c| (c["aud"], c["azp"]) = (json!(["isthmus", "other"]), json!("isthmus"))).is_ok());
    for exp in [json!(NOW - 61), json!(0), json!(-1), Value::Null, json!("later")] {
        assert_eq!(with(|c| c["exp"] = exp.clone()), Err(Fault::Ended), "{exp}");
    }
    assert!(with(|c| c["exp"] = json!(NOW - 30)).is_ok(), "clocks differ by seconds");
    assert_eq!(with(|c| c["nbf"] = json!(NOW + 61)), Err(Fault::TooEarly));
    assert_eq!(with(|c| c["iat"] = json!(NOW + 3600)), Err(Fault::TooEarly));
    for nonce in [json!("another"), Value::Null, json!(1)] {
        assert_eq!(with(|c| c["nonce"] = nonce.clone()), Err(Fault::Nonce), "{nonce}");
    }
    let mut without = claims();
    without.as_object_mut().unwrap().remove("nonce");
    let token = SIGNER.sign(&json!({ "alg": "RS256", "kid": "rsa-1" }), &without);
    assert_eq!(verify(&token, &keys(), EXPECTED), Err(Fault::Nonce));
    assert!(verify(&token, &keys(), Expected { nonce_required: false, ..EXPECTED }).is_ok());
    let other = SIGNER.sign(
        &json!({ "alg": "RS256", "kid": "rsa-1" }),
        &json!({ "nonce": "another", "iss": EXPECTED.issuer, "aud": "isthmus", "sub": "s", "exp": NOW + 9 }),
    );
    assert_eq!(
        verify(&other, &keys(), Expected { nonce_required: false, ..EXPECTED }),
        Err(Fault::Nonce),
        "a wrong one never"
    );
    assert_eq!(with(|c| c["sub"] = json!("")), Err(Fault::Subject));
    assert_eq!(with(|c| c["_claim_names"] = json!({ "groups": "src1" })), Err(Fault::TooManyGroups));
    assert!(with(|c| c["groups"] = Value::Null).unwrap().groups.is_empty());
}

proptest! {
    /// No byte of a token can be another one, and no text at all makes it panic.
    #[test]
    fn a_token_with_a_byte_changed_is_refused(at in any::<proptest::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let token = SIGNER.sign(&json!({ "alg": "ES256", "kid": "ec-1" }), &claims());
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        // The last character of a part has bits that say nothing; a strict decoder refuses those too.
        prop_assert!(changed == token || verify(&changed, &keys(), EXPECTED).is_err());
    }

    #[test]
    fn whatever_text_is_a_verdict(text in ".{0,300}", json in ".{0,200}") {
        let _ = verify(&text, &keys(), EXPECTED);
        let _ = verify(&format!("{}.{}.{}", b64(&json), b64(&text), b64("x")), &keys(), EXPECTED);
        let _ = Keys::read(text.as_bytes());
    }
}
