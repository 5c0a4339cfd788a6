//! An intermediate of a company's own PKI: an OpenSSL CA set up like an AD CS subordinate CA. RSA-4096 root, path length 0,
//! name constraints, a CRL that nobody answers for.

use super::{Authorities, Role};
use isthmus_certs::vault::PlainVault;
use isthmus_certs::{ManualClock, PrivateKey, PublicKeyInfo, RootFingerprint, SpiffeId, TrustDomain, pem};
use rustls::pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const SUB_CA: &str = "[sub]\n\
    basicConstraints = critical, CA:TRUE, pathlen:0\n\
    keyUsage = critical, digitalSignature, keyCertSign, cRLSign\n\
    subjectKeyIdentifier = hash\n\
    authorityKeyIdentifier = keyid\n\
    crlDistributionPoints = URI:http://pki.corp.invalid/root.crl\n\
    authorityInfoAccess = caIssuers;URI:http://pki.corp.invalid/root.crt\n\
    1.3.6.1.4.1.311.21.1 = ASN1:INTEGER:0\n\
    1.3.6.1.4.1.311.20.2 = ASN1:BMPSTRING:SubCA\n";
const CONSTRAINTS: &str = "nameConstraints = critical, permitted;DNS:shop.example, permitted;DNS:.corp.invalid\n";

/// The company's PKI, in a directory.
struct Company(tempfile::TempDir);

impl Company {
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "CI needs openssl");
            eprintln!("SKIPPED: an intermediate of a company's PKI: not installed: openssl");
            return None;
        }
        let company = Company(tempfile::tempdir().unwrap());
        company.openssl(
            "req -x509 -newkey rsa:4096 -nodes -keyout root.key -out root.crt -days 3650 -sha256 \
             -subj /DC=invalid/DC=corp/CN=Corp-Root-CA -addext basicConstraints=critical,CA:TRUE \
             -addext keyUsage=critical,keyCertSign,cRLSign",
        );
        Some(company)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, args: &str) -> String {
        let output = Command::new("openssl").args(args.split_whitespace()).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "openssl {args}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What comes back for a request: the intermediate and the root.
    fn sign(&self, csr_der: &[u8], extensions: &str) -> Vec<CertificateDer<'static>> {
        std::fs::write(self.path("sub.csr"), csr_der).unwrap();
        std::fs::write(self.path("sub.ext"), extensions).unwrap();
        self.openssl("req -inform DER -in sub.csr -verify -noout");
        self.openssl(
            "x509 -req -inform DER -in sub.csr -CA root.crt -CAkey root.key -CAcreateserial -days 1825 -sha256 \
             -extfile sub.ext -extensions sub -out sub.crt",
        );
        ["sub.crt", "root.crt"].map(|name| self.certificate(name)).into()
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        pem::parse(&std::fs::read(self.path(name)).unwrap()).unwrap().certificates.remove(0)
    }
}

fn authorities(dir: &Path) -> (Authorities, ManualClock) {
    // OpenSSL signs from now on, by the machine's clock; so do we.
    let now_ms = isthmus_certs::Clock::now_ms(&isthmus_certs::SystemClock);
    let clock = ManualClock::at_ms(now_ms);
    let td = TrustDomain::parse("shop.example").unwrap();
    (Authorities::load(dir, &td, Arc::new(PlainVault), Arc::new(clock.clone())).unwrap(), clock)
}

#[test]
fn an_intermediate_of_the_companys_pki_issues_and_openssl_accepts_the_chain() {
    let Some(company) = Company::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (authorities, _) = authorities(dir.path());
    let request = authorities.request().unwrap();
    assert!(company.openssl("version").starts_with("OpenSSL"));
    let chain = company.sign(&request, &format!("{SUB_CA}{CONSTRAINTS}"));
    // The key of the request survives a restart, and is needed for nothing else.
    let (authorities, clock) = self::authorities(dir.path());
    authorities.import(&chain).unwrap();
    assert_eq!(authorities.other().unwrap().role, Role::Coming);
    assert!(!dir.path().join("ca/pending.pem").exists());
    authorities.exchange().unwrap();
    let (authorities, _) = self::authorities(dir.path());
    let active = authorities.active();
    assert_eq!(RootFingerprint::of(active.root()), RootFingerprint::of(&company.certificate("root.crt")));
    assert!(!active.is_self_rooted() && !active.renew_issuing_if_due().unwrap());

    let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/web").unwrap();
    let key = PublicKeyInfo::of(&PrivateKey::generate().unwrap());
    let issued = active.issue(&key, &id, Duration::from_secs(3600), &[]).unwrap();
    drop(clock);
    for (name, certificate) in ["leaf.crt", "issuing.crt"].iter().zip(&issued.chain) {
        std::fs::write(company.path(name), pem::write(std::slice::from_ref(certificate), None).unwrap().as_bytes())
            .unwrap();
    }
    for purpose in ["sslserver", "sslclient"] {
        company.openssl(&format!(
            "verify -x509_strict -purpose {purpose} -CAfile root.crt -untrusted issuing.crt leaf.crt"
        ));
    }
}

#[test]
fn what_could_not_issue_is_refused_when_it_is_brought_and_says_why() {
    let Some(company) = Company::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (authorities, _) = authorities(dir.path());
    let refused = authorities.import(&[company.certificate("root.crt")]).unwrap_err();
    assert!(refused.contains("isthmus ca csr"), "{refused}");
    let request = authorities.request().unwrap();
    let good = company.sign(&request, SUB_CA);
    for (what, chain, words) in [
        ("no root", vec![good[0].clone()], "then the root"),
        ("another root first", vec![good[1].clone(), good[0].clone()], "do not belong together"),
        ("no CA", company.sign(&request, &SUB_CA.replace("CA:TRUE, pathlen:0", "CA:FALSE")), "untrusted-root"),
        ("may not sign", company.sign(&request, &SUB_CA.replace("keyCertSign, ", "")), "untrusted-root"),
    ] {
        let refused = authorities.import(&chain).unwrap_err();
        assert!(refused.contains(words), "{what}: {refused}");
        assert!(authorities.other().is_none(), "{what}");
    }
    let other = Company::new().unwrap();
    let refused = authorities.import(&other.sign(&request, SUB_CA)).map(|()| authorities.other().is_some());
    assert_eq!(refused, Ok(true), "who the company is, is the operator's to know");
    assert!(authorities.request().unwrap_err().contains("a rotation is under way"));
}
