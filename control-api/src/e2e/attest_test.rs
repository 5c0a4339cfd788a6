//! Enrolment by a machine's certificate of the company's own CA.

use super::*;
use adm::ReleaseRequest;
use isthmus_certs::foreign::ENROL_CONTEXT as CONTEXT;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

const CORP: &str = r#"
certificates:
  - name: corp
    roots: DIR/corp.pem
    workloads: { VM-Web.corp.example: shop/web }
"#;
const ECDSA_P256_SHA256: u32 = 0x0403;

/// The company's CA.
struct Company(CertifiedIssuer<'static, KeyPair>);

/// A machine with its certificate.
struct Machine {
    chain: Vec<Vec<u8>>,
    key: KeyPair,
}

fn dates(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
}

impl Company {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        dates(&mut params);
        Company(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn machine(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Machine {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        dates(&mut params);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Machine { chain: vec![params.signed_by(&key, &self.0).unwrap().der().to_vec()], key }
    }

    async fn world(&self) -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("corp.pem"), self.0.pem()).unwrap();
        std::fs::write(dir.path().join("attestation.yaml"), CORP).unwrap();
        World::start_with(dir).await
    }
}

impl Machine {
    fn request(&self, key: &PrivateKey) -> idv::EnrollRequest {
        let csr_der = csr::request(key).unwrap();
        let proof = idv::CertificateProof {
            authority: "corp".to_string(),
            chain_der: self.chain.clone(),
            signature_scheme: ECDSA_P256_SHA256,
            signature: rcgen::SigningKey::sign(&self.key, &[CONTEXT, &csr_der].concat()).unwrap(),
        };
        let proof = Some(idv::enroll_request::Proof::Certificate(proof));
        idv::EnrollRequest { proof, csr_der, client_time_unix_ms: 0 }
    }
}

impl World {
    pub(super) async fn ask(&self, request: idv::EnrollRequest) -> Result<idv::EnrollResponse, Status> {
        let root = self.operator_identity().bundle.fingerprints()[0];
        self.pinned(root).await.unwrap().enroll(request).await.map(|answer| answer.into_inner())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_certificate_gives_its_one_workload() {
    let company = Company::new();
    let (world, machine) = (company.world().await, company.machine("vm-web.corp.example", |_| ()));
    let key = csr::new_key().unwrap();
    let answer = world.ask(machine.request(&key)).await.unwrap();
    assert_eq!(answer.workload, "shop/web");
    let identity = identity(answer.certificate.unwrap(), key, &world.clock);
    assert_eq!(identity.id.as_str(), "spiffe://shop.example/ns/shop/sa/web");
    let lines = world.audit().await;
    let proof = lines.iter().find(|line| line["what"] == "enrolled").unwrap()["proof"].as_str().unwrap().to_string();
    assert!(proof.starts_with("certificate of corp, serial "), "{proof}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_proves_nothing_is_refused() {
    let (company, stranger) = (Company::new(), Company::new());
    let world = company.world().await;
    let name = "vm-web.corp.example";
    let key = csr::new_key().unwrap();
    let good = || company.machine(name, |_| ()).request(&key);
    let changed = |change: fn(&mut idv::CertificateProof)| {
        let mut request = good();
        let Some(idv::enroll_request::Proof::Certificate(proof)) = &mut request.proof else { unreachable!() };
        change(proof);
        request
    };
    let of_another_request = idv::EnrollRequest { csr_der: csr::request(&csr::new_key().unwrap()).unwrap(), ..good() };
    for (what, request) in [
        ("another CA", stranger.machine(name, |_| ()).request(&key)),
        ("another machine", company.machine("vm-x.corp.example", |_| ()).request(&key)),
        ("ended", company.machine(name, |p| p.not_after = rcgen::date_time_ymd(2026, 6, 1)).request(&key)),
        (
            "no client",
            company.machine(name, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).request(&key),
        ),
        ("signed for another request", of_another_request),
        ("no signature", changed(|proof| proof.signature.clear())),
        ("another scheme", changed(|proof| proof.signature_scheme = 0x0804)),
        ("an unknown scheme", changed(|proof| proof.signature_scheme = 0x10403)),
        ("an unnamed CA", changed(|proof| proof.authority = "other".to_string())),
        ("no certificate", changed(|proof| proof.chain_der.clear())),
    ] {
        let refused = world.ask(request).await.expect_err(what);
        assert!(matches!(refused.code(), Code::Unauthenticated | Code::PermissionDenied), "{what}: {refused}");
    }
    world.ask(good()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_machine_does_not_come_in_and_a_lost_key_needs_an_operator() {
    let company = Company::new();
    let (world, machine) = (company.world().await, company.machine("vm-web.corp.example", |_| ()));
    let (first, second) = (csr::new_key().unwrap(), csr::new_key().unwrap());
    world.ask(machine.request(&first)).await.unwrap();
    world.ask(machine.request(&first)).await.expect("a lost answer can be asked for again");
    let refused = world.ask(machine.request(&second)).await.unwrap_err();
    assert!(refused.message().contains("isthmus identity release shop/web"), "{refused}");
    let release = ReleaseRequest { workload: "shop/web".to_string() };
    world.authority().await.release(release.clone()).await.unwrap();
    let world = world.restart().await;
    world.ask(machine.request(&second)).await.expect("after a release");
    world.ask(machine.request(&first)).await.expect_err("once");

    // Revoked, it does not come back by the certificate that it still has.
    let request = adm::RevokeRequest {
        spiffe_id: "spiffe://shop.example/ns/shop/sa/web".to_string(),
        ..adm::RevokeRequest::default()
    };
    world.authority().await.revoke(request).await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    let refused = world.ask(machine.request(&second)).await.unwrap_err();
    assert!(refused.message().contains("was revoked after"), "{refused}");
    world.authority().await.release(release).await.unwrap();
    world.ask(machine.request(&second)).await.expect("an operator says that it may");
}
