//! Documents signed by a chain of the test's own, good and bad, and one that OpenSSL signed.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SigningKey,
};

use super::*;
use crate::mesh_test::{NOW_MS, at};

const CONTENT: &[u8] = br#"{"vmId":"02aab8a4"}"#;
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn now() -> UnixTime {
    at(NOW_MS as u64 / 1000)
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// Root, issuing CA, and a signer below it.
struct Cloud {
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
    signer: CertificateDer<'static>,
    key: KeyPair,
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    dates(&mut params);
    params
}

fn dates(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
}

impl Cloud {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let root = CertifiedIssuer::self_signed(ca("Cloud root"), KeyPair::generate().unwrap()).unwrap();
        let issuing = CertifiedIssuer::signed_by(ca("Cloud issuing"), KeyPair::generate().unwrap(), &root).unwrap();
        let mut params = CertificateParams::new(vec!["metadata.azure.com".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "metadata.azure.com");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        dates(&mut params);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signer = params.signed_by(&key, &issuing).unwrap().der().clone();
        Self { root, issuing, signer, key }
    }

    fn cas(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.der().clone(), self.issuing.der().clone()]
    }

    fn attributes(content: &[u8]) -> Vec<u8> {
        let hash = digest::digest(&SHA256, content);
        let kind = element(SEQUENCE, &[&element(OID, &[CONTENT_TYPE]), &element(SET, &[&element(OID, &[DATA])])]);
        let value = element(SET, &[&element(OCTET_STRING, &[hash.as_ref()])]);
        let digest = element(SEQUENCE, &[&element(OID, &[MESSAGE_DIGEST]), &value]);
        [kind, digest].concat()
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        self.sign_with(content, &Self::attributes(content), &[self.signer.to_vec()])
    }

    fn sign_with(&self, content: &[u8], attributes: &[u8], certificates: &[Vec<u8>]) -> Vec<u8> {
        let signature = self.key.sign(&element(SET, &[attributes])).unwrap();
        let cert = leaf::parse(&self.signer).unwrap();
        let sid = element(SEQUENCE, &[cert.issuer().as_raw(), &element(INTEGER, &[cert.raw_serial()])]);
        let sha256 = element(SEQUENCE, &[&element(OID, &[SHA256_OID])]);
        let info = element(
            SEQUENCE,
            &[
                &element(INTEGER, &[&[1]]),
                &sid,
                &sha256,
                &element(context(0), &[attributes]),
                &element(SEQUENCE, &[&element(OID, &[ECDSA_SHA256])]),
                &element(OCTET_STRING, &[&signature]),
            ],
        );
        let inner = element(context(0), &[&element(OCTET_STRING, &[content])]);
        let signed = element(
            SEQUENCE,
            &[
                &element(INTEGER, &[&[1]]),
                &element(SET, &[&sha256]),
                &element(SEQUENCE, &[&element(OID, &[DATA]), &inner]),
                &element(context(0), &[&certificates.concat()]),
                &element(SET, &[&info]),
            ],
        );
        element(SEQUENCE, &[&element(OID, &[SIGNED_DATA]), &element(context(0), &[&signed])])
    }
}

#[test]
fn a_document_says_what_was_signed_and_by_whom() {
    let cloud = Cloud::new(|_| ());
    let good = verify(&cloud.sign(CONTENT), &cloud.cas(), now()).unwrap();
    assert_eq!((&good.content[..], &good.signer[..]), (CONTENT, &["metadata.azure.com".to_owned()][..]));
}

#[test]
fn only_configured_cas_count_and_only_while_all_are_valid() {
    let (cloud, other) = (Cloud::new(|_| ()), Cloud::new(|_| ()));
    let document = cloud.sign(CONTENT);
    let judged = |cas: &[CertificateDer<'_>], at: UnixTime| verify(&document, cas, at).map(drop);
    assert_eq!(judged(&other.cas(), now()), Err(DocumentError::Chain));
    assert_eq!(judged(&[], now()), Err(DocumentError::Chain));
    // An issuing CA among the CAs only helps to get to a root; it is none.
    assert_eq!(judged(&[cloud.issuing.der().clone()], now()), Err(DocumentError::Chain));
    assert_eq!(judged(&cloud.cas(), at(now().as_secs() + 4 * 365 * 86_400)), Err(DocumentError::Chain));
    // One that the document brings is as good as one that is configured.
    let certificates = [cloud.signer.to_vec(), cloud.issuing.der().to_vec()];
    let whole = cloud.sign_with(CONTENT, &Cloud::attributes(CONTENT), &certificates);
    assert!(verify(&whole, &[cloud.root.der().clone()], now()).is_ok());
    let client = Cloud::new(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(verify(&client.sign(CONTENT), &client.cas(), now()), Err(DocumentError::Chain));
}

#[test]
fn what_is_not_signed_as_it_stands_proves_nothing() {
    let cloud = Cloud::new(|_| ());
    let signer = [cloud.signer.to_vec()];
    let judge = |document: &[u8]| verify(document, &cloud.cas(), now()).map(drop);
    let other_content = cloud.sign_with(b"{}", &Cloud::attributes(CONTENT), &signer);
    assert_eq!(judge(&other_content), Err(DocumentError::Signature));
    let good = Cloud::attributes(CONTENT);
    let kind_length = usize::from(good[1]) + 2;
    let (kind, digest) = good.split_at(kind_length);
    assert_eq!(judge(&cloud.sign_with(CONTENT, kind, &signer)), Err(DocumentError::Signature));
    assert_eq!(judge(&cloud.sign_with(CONTENT, digest, &signer)), Err(DocumentError::Malformed));
    let twice = [kind, digest, digest].concat();
    assert_eq!(judge(&cloud.sign_with(CONTENT, &twice, &signer)), Err(DocumentError::Malformed));
    assert_eq!(judge(&cloud.sign_with(CONTENT, &good, &[])), Err(DocumentError::NoSigner));
    let many = vec![signer[0].clone(); MAX_CERTIFICATES + 1];
    assert_eq!(judge(&cloud.sign_with(CONTENT, &good, &many)), Err(DocumentError::Malformed));
    let mut long = cloud.sign(CONTENT);
    long.push(0);
    assert_eq!(judge(&long), Err(DocumentError::Malformed));
    assert_eq!(judge(&vec![0x30; MAX_DOCUMENT + 1]), Err(DocumentError::TooLarge));
}

#[test]
fn every_changed_byte_is_noticed_where_it_matters() {
    let cloud = Cloud::new(|_| ());
    let document = cloud.sign(CONTENT);
    let good = verify(&document, &cloud.cas(), now()).unwrap();
    for place in 0..document.len() {
        let mut changed = document.clone();
        changed[place] ^= 1;
        // What nobody signs (versions, the outer list of digests) may differ; what is said may not.
        if let Ok(read) = verify(&changed, &cloud.cas(), now()) {
            assert_eq!(read, good, "byte {place}");
        }
    }
}

/// Azure signs with RSA, and its documents are made by another program than this test.
#[test]
fn a_document_that_openssl_signed_with_rsa_is_read() {
    let run = |dir: &std::path::Path, args: &[&str]| {
        let done = std::process::Command::new("openssl").current_dir(dir).args(args).output();
        let done = match done {
            Ok(done) => done,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => panic!("{error}"),
        };
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        true
    };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("content"), CONTENT).unwrap();
    std::fs::write(at.join("ext"), "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:metadata.azure.com\n").unwrap();
    let root = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem"];
    let root = [&root[..], &["-subj", "/CN=Root", "-days", "400", "-addext", "keyUsage=critical,keyCertSign"]].concat();
    if !run(at, &root) {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "openssl is not installed");
        eprintln!("SKIPPED: a document signed by OpenSSL: not installed: openssl");
        return;
    }
    let request = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "signer.key", "-out", "signer.csr"];
    run(at, &[&request[..], &["-subj", "/CN=metadata.azure.com"]].concat());
    let issue = ["x509", "-req", "-in", "signer.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "300"];
    run(at, &[&issue[..], &["-extfile", "ext", "-out", "signer.pem", "-set_serial", "0x7f01"]].concat());
    let sign = ["cms", "-sign", "-binary", "-nodetach", "-in", "content", "-outform", "DER", "-out", "document"];
    run(at, &[&sign[..], &["-signer", "signer.pem", "-inkey", "signer.key", "-md", "sha256"]].concat());
    let root = crate::pem::parse(&std::fs::read(at.join("root.pem")).unwrap()).unwrap().certificates;
    // OpenSSL dates its certificates by the machine's clock.
    let now = crate::Clock::now(&crate::SystemClock);
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 60));
    let good = verify(&std::fs::read(at.join("document")).unwrap(), &root, later).unwrap();
    assert_eq!((&good.content[..], &good.signer[0][..]), (CONTENT, "metadata.azure.com"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&bytes, &[], now()).is_err());
    }
}
