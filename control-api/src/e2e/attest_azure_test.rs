//! Enrolment of an Azure VM: documents as its metadata service signs them, signed by OpenSSL with a chain of the test's.

use super::*;
use rcgen::KeyUsagePurpose;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::json;
use std::process::Command;

const AZURE: &str = r#"
azure:
  cas: DIR/azure.pem
  workloads: { 8D10DA13-125A-4BA9-A717-BF7490507B3D/02aab8a4-74ef-476e-8182-f6d2ba4166a6: shop/web }
"#;

/// Whoever signs documents.
struct Cloud {
    dir: tempfile::TempDir,
}

impl Cloud {
    /// None where OpenSSL is not installed.
    fn new(name: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "openssl is not installed");
            eprintln!("SKIPPED: attested documents: not installed: openssl");
            return None;
        }
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signer = params.signed_by(&key, &root).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root.pem"), root.pem()).unwrap();
        std::fs::write(dir.path().join("signer.pem"), signer.pem()).unwrap();
        std::fs::write(dir.path().join("signer.key"), key.serialize_pem()).unwrap();
        Some(Cloud { dir })
    }

    fn sign(&self, content: &serde_json::Value) -> Vec<u8> {
        std::fs::write(self.dir.path().join("content"), content.to_string()).unwrap();
        let args =
            "cms -sign -binary -nodetach -in content -outform DER -out document -signer signer.pem -inkey signer.key";
        let done = Command::new("openssl").current_dir(self.dir.path()).args(args.split(' ')).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(self.dir.path().join("document")).unwrap()
    }

    async fn world(&self) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(self.dir.path().join("root.pem"), dir.path().join("azure.pem")).unwrap();
        std::fs::write(dir.path().join("attestation.yaml"), AZURE).unwrap();
        World::start_with(dir).await
    }
}

/// 2027-01-15, 08:00, as [`NOW_MS`] is; good for six hours.
fn content(nonce: &str) -> serde_json::Value {
    json!({
        "licenseType": "", "nonce": nonce, "plan": { "name": "", "product": "", "publisher": "" }, "sku": "server",
        "subscriptionId": "8d10da13-125a-4ba9-a717-bf7490507b3d",
        "timeStamp": { "createdOn": "01/15/27 07:59:58 -0000", "expiresOn": "01/15/27 13:59:58 -0000" },
        "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
    })
}

impl World {
    async fn nonce(&self, key: &PrivateKey) -> String {
        let root = self.operator_identity().bundle.fingerprints()[0];
        let request = idv::ChallengeRequest { csr_der: csr::request(key).unwrap() };
        self.pinned(root).await.unwrap().challenge(request).await.unwrap().into_inner().nonce
    }

    async fn show(&self, key: &PrivateKey, document: Vec<u8>) -> Result<idv::EnrollResponse, Status> {
        let proof = Some(idv::enroll_request::Proof::Azure(idv::AzureProof { document }));
        self.ask(idv::EnrollRequest { proof, csr_der: csr::request(key).unwrap(), client_time_unix_ms: NOW_MS }).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vms_document_gives_its_one_workload_and_binds_it_to_the_first_key() {
    let Some(cloud) = Cloud::new("eastus.metadata.azure.com") else { return };
    let world = cloud.world().await;
    let key = csr::new_key().unwrap();
    let nonce = world.nonce(&key).await;
    assert!(nonce.len() == 10 && nonce.bytes().all(|digit| digit.is_ascii_digit()), "{nonce}");
    let document = cloud.sign(&content(&nonce));
    let answer = world.show(&key, document.clone()).await.unwrap();
    assert_eq!(answer.workload, "shop/web");
    // An answer that was lost on the way is asked for again.
    world.show(&key, document).await.unwrap();
    let other = csr::new_key().unwrap();
    let document = cloud.sign(&content(&world.nonce(&other).await));
    let status = world.show(&other, document.clone()).await.unwrap_err();
    assert!(status.message().contains("isthmus identity release shop/web"), "{status}");
    let mut authority = world.authority().await;
    authority.release(adm::ReleaseRequest { workload: "shop/web".to_string() }).await.unwrap();
    world.show(&other, document).await.unwrap();
    let lines = world.audit().await;
    let proof = lines.iter().find(|line| line["what"] == "enrolled").unwrap()["proof"].clone();
    assert_eq!(proof, "azure 8d10da13-125a-4ba9-a717-bf7490507b3d/02aab8a4-74ef-476e-8182-f6d2ba4166a6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_for_another_request_another_vm_or_of_another_signer_is_refused() {
    let Some(cloud) = Cloud::new("metadata.azure.com") else { return };
    let world = cloud.world().await;
    let (key, other) = (csr::new_key().unwrap(), csr::new_key().unwrap());
    let refused = async |document: Vec<u8>, expected: &str| {
        let status = world.show(&key, document).await.unwrap_err();
        assert!(status.message().contains(expected), "{expected}: {status}");
    };
    let nonce = world.nonce(&key).await;
    refused(cloud.sign(&content(&world.nonce(&other).await)), "not made for this request").await;
    let changed = |path: &str, value: &str| {
        let mut content = content(&nonce);
        *content.pointer_mut(path).unwrap() = json!(value);
        cloud.sign(&content)
    };
    refused(changed("/vmId", "02aab8a4-0000-476e-8182-f6d2ba4166a6"), "not among attestation.azure.workloads").await;
    refused(changed("/subscriptionId", "0"), "not among attestation.azure.workloads").await;
    refused(changed("/timeStamp/expiresOn", "01/15/27 07:00:00 -0000"), "it ended").await;
    refused(changed("/timeStamp/createdOn", "01/15/27 09:00:00 -0000"), "later than now").await;
    refused(changed("/timeStamp/createdOn", "soon"), "`soon` is no time").await;
    refused(cloud.sign(&json!({ "nonce": nonce })), "not as Azure writes it").await;
    refused(b"no document".to_vec(), "not CMS SignedData").await;
    let stranger = Cloud::new("metadata.azure.com").unwrap();
    refused(stranger.sign(&content(&nonce)), "none of the CAs signed it").await;
    // Too old: nonces are good for two to four minutes.
    let document = cloud.sign(&content(&nonce));
    world.clock.advance(Duration::from_secs(241));
    refused(document, "not made for this request").await;
    let lines = world.audit().await;
    assert!(lines.iter().filter(|line| line["what"] == "refused" && line["proof"] == "azure").count() >= 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_same_ca_that_is_not_the_metadata_services_signs_nothing() {
    let Some(cloud) = Cloud::new("www.customer.example") else { return };
    let world = cloud.world().await;
    let key = csr::new_key().unwrap();
    let document = cloud.sign(&content(&world.nonce(&key).await));
    let status = world.show(&key, document).await.unwrap_err();
    assert!(status.message().contains("signed by www.customer.example"), "{status}");
}
