//! What the mesh's configuration says of certificates and handshakes: DNS names, other trust domains, algorithms.

use super::*;

fn mesh_with(line: &str) -> String {
    let mesh = MESH.split("---").next().unwrap();
    mesh.replace("vipRanges:", &format!("{line}, vipRanges:"))
}

fn leaf_der(identity: &WorkloadIdentity) -> Vec<u8> {
    identity.chain[0].to_vec()
}

fn contains(der: &[u8], text: &str) -> bool {
    der.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_carries_the_dns_names_that_policy_gives_its_workload_and_no_others() {
    let world = World::start().await;
    let plain = world.join("shop/orders").await;
    assert!(!contains(&leaf_der(&plain), "orders.shop.svc"), "the default is none");
    let mut operator = world.operator().await;
    let names = mesh_with("certificates: { dnsNames: Services, dnsSuffixes: [corp.example] }");
    assert_eq!(apply(&mut operator, &names).await.problems, []);
    let orders = MESH.split("---").find(|document| document.contains("name: orders, labels")).unwrap();
    let named = |name: &str| orders.replace("serviceAccount:", &format!("dnsNames: [{name}], serviceAccount:"));
    assert_eq!(apply(&mut operator, &named("orders.corp.example")).await.problems, []);
    for outside in ["corp.example", "www.bank.example", "evilcorp.example", "'*.corp.example'"] {
        let problems = apply(&mut operator, &named(outside)).await.problems;
        assert!(problems.iter().any(|p| p.field == "spec.dnsNames[0]"), "{outside}: {problems:?}");
    }
    let identity = world.join("shop/orders").await;
    for name in ["orders.corp.example", "orders.shop.svc.cluster.local", "orders.shop.svc"] {
        assert!(contains(&leaf_der(&identity), name), "{name}");
    }
    // Still exactly one identity: a peer that checks it takes it.
    let peer = isthmus_certs::peer_identity(&identity.chain).unwrap();
    assert_eq!(peer.id.as_str(), "spiffe://shop.example/ns/shop/sa/orders");
    let channel = world.connect_as(identity.clone(), world.control.proxies).await.unwrap();
    // And it is renewed with them.
    let request = idv::RenewRequest {
        csr_der: csr::request(&csr::new_key().unwrap()).unwrap(),
        client_time_unix_ms: 0,
        machine: None,
    };
    let renewed = IdentityClient::new(channel).renew(request).await.unwrap().into_inner().certificate.unwrap();
    assert!(contains(&renewed.chain_der[0], "orders.corp.example"));
    let web = world.join("shop/web").await;
    assert!(!contains(&leaf_der(&web), "orders"), "another's names");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_finds_the_name_in_the_leaf_of_a_sound_chain() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    assert_eq!(apply(&mut operator, &mesh_with("certificates: { dnsNames: Services }")).await.problems, []);
    let identity = world.join("shop/orders").await;
    let dir = world.dir.path();
    let pem = |ders: &[rustls::pki_types::CertificateDer<'_>]| {
        use base64::Engine;
        let one = |der: &rustls::pki_types::CertificateDer<'_>| {
            let text = base64::prelude::BASE64_STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        ders.iter().map(one).collect::<String>()
    };
    std::fs::write(dir.join("leaf.pem"), pem(&identity.chain[..1])).unwrap();
    std::fs::write(dir.join("issuing.pem"), pem(&identity.chain[1..])).unwrap();
    std::fs::write(dir.join("roots.pem"), pem(identity.bundle.roots())).unwrap();
    let verify = |host: &str| {
        let args = ["verify", "-attime", "1800000000", "-purpose", "sslserver", "-verify_hostname", host];
        let files = ["-CAfile", "roots.pem", "-untrusted", "issuing.pem", "leaf.pem"];
        std::process::Command::new("openssl").current_dir(dir).args(args).args(files).output()
    };
    let Ok(done) = verify("orders.shop.svc") else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "openssl is not installed");
        eprintln!("SKIPPED: DNS names by OpenSSL: not installed: openssl");
        return;
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!verify("web.shop.svc").unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_trust_domain_is_told_to_proxies_and_its_workloads_enrol_there() {
    let world = World::start().await;
    let bank = TrustDomain::parse("bank.example").unwrap();
    let ca = isthmus_certs::CertificateAuthority::generate(&bank, Arc::new(world.clock.clone())).unwrap();
    use base64::Engine;
    let root = base64::prelude::BASE64_STANDARD.encode(ca.root());
    let pem = format!("-----BEGIN CERTIFICATE-----\\n{root}\\n-----END CERTIFICATE-----\\n");
    let domain = |name: &str, domain: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrustDomain\nmetadata: {{ name: {name} }}\n\
             spec: {{ trustDomain: {domain}, pem: \"{pem}\" }}\n"
        )
    };
    let orders = MESH.split("---").find(|document| document.contains("name: orders, labels")).unwrap();
    let vault = orders
        .replace("name: orders", "name: vault")
        .replace("app: orders", "app: vault")
        .replace("1.10]", "1.66]")
        .replace("serviceAccount: orders", "trustDomain: bank.example, serviceAccount: vault");
    let mut operator = world.operator().await;
    let problems = apply(&mut operator, &vault).await.problems;
    assert!(problems[0].reason.contains("there is no TrustDomain"), "{problems:?}");
    let problems = apply(&mut operator, &domain("us", "shop.example")).await.problems;
    assert!(problems[0].reason.contains("is our own"), "{problems:?}");
    assert_eq!(apply(&mut operator, &domain("bank", "bank.example")).await.problems, []);
    let problems = apply(&mut operator, &domain("bank2", "bank.example")).await.problems;
    assert!(problems[0].reason.contains("that of TrustDomain bank as well"), "{problems:?}");
    assert_eq!(apply(&mut operator, &vault).await.problems, []);
    let mut proxy = world.proxy("shop/web", &["10.20.1.66"]).await;
    let delta = proxy.delta().await;
    let mesh = delta.upserts.iter().find_map(|resource| match &resource.body {
        Some(disc::resource::Body::Mesh(mesh)) => Some(mesh),
        _ => None,
    });
    let told = &mesh.unwrap().trust_domains;
    assert_eq!((told[0].trust_domain.as_str(), &told[0].roots_der[..]), ("bank.example", &[ca.root().to_vec()][..]));
    let expected = "spiffe://bank.example/ns/shop/sa/vault";
    assert!(format!("{delta:?}").contains(expected), "its callers expect it by its own domain: {delta:?}");
    let request = adm::CreateJoinTokenRequest { workload: "shop/vault".to_string(), ttl_seconds: 60 };
    let status = operator.create_join_token(request).await.unwrap_err();
    assert!(status.message().contains("make its token there"), "{status}");
    // The domain is in use: it cannot go first.
    let problems = apply(&mut operator, &domain("bank", "other.example")).await.problems;
    assert!(problems.iter().any(|problem| problem.reason.contains("there is no TrustDomain")), "{problems:?}");
    // Its identities open nothing here: only proxies believe them.
    assert!(!renews_here(&world, &ca, expected).await, "another mesh's workload renewed here");
}

/// Whether a workload of the trust domain of `ca` gets a certificate of ours.
async fn renews_here(world: &World, ca: &isthmus_certs::CertificateAuthority, id: &str) -> bool {
    let key = csr::new_key().unwrap();
    let id = SpiffeId::parse(id).unwrap();
    let proven = csr::verify(&csr::request(&key).unwrap()).unwrap();
    let issued = ca.issue(&proven, &id, Duration::from_secs(3600), &[]).unwrap();
    let foreign =
        WorkloadIdentity::from_issued(issued, key, ca.bundle(), isthmus_certs::Clock::now(&world.clock)).unwrap();
    let store = IdentityStore::new(id.trust_domain().clone(), Arc::new(world.clock.clone()));
    store.replace(foreign).unwrap();
    store.set_others([(TrustDomain::parse("shop.example").unwrap(), world.operator_identity().bundle)].into());
    let control = SpiffeId::control_plane(&TrustDomain::parse("shop.example").unwrap());
    let config = store.client_config(&[b"h2"], ExpectedPeer::AnyOf(vec![control]));
    match connect(config, world.control.proxies).await {
        Err(_) => false,
        Ok(channel) => IdentityClient::new(channel).renew(idv::RenewRequest::default()).await.is_ok(),
    }
}

/// `openssl s_client` at a port, offering one group: whether a handshake came about, and what OpenSSL says.
fn s_client(address: SocketAddr, more: &[&str]) -> Option<(bool, String)> {
    let args = ["s_client", "-connect", &address.to_string(), "-tls1_3", "-brief", "-alpn", "h2"].map(str::to_owned);
    let done = std::process::Command::new("openssl").args(args).args(more).stdin(std::process::Stdio::null()).output();
    let done = done.ok()?;
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    Some((said.contains("CONNECTION ESTABLISHED"), said))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fips_profile_openssl_is_refused_every_other_group_and_cipher() {
    let world = World::start().await;
    let at = world.control.proxies;
    let shakes =
        async |more: &'static [&'static str]| tokio::task::spawn_blocking(move || s_client(at, more)).await.unwrap();
    let Some((before, said)) = shakes(&["-groups", "X25519"]).await else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "openssl is not installed");
        eprintln!("SKIPPED: crypto profiles by OpenSSL: not installed: openssl");
        return;
    };
    assert!(before, "{said}");
    let mut operator = world.operator().await;
    assert_eq!(apply(&mut operator, &mesh_with("cryptoProfile: fips")).await.problems, []);
    let mut proxy = world.proxy("shop/web", &[]).await;
    let delta = proxy.delta().await;
    let mesh = delta.upserts.iter().find(|r| matches!(r.body, Some(disc::resource::Body::Mesh(_)))).unwrap();
    assert_eq!(mesh.requires, ["crypto-profile/v1"], "a proxy that knows no profiles must not go on");
    for (offer, good) in [
        (&["-groups", "X25519"][..], false),
        (&["-groups", "P-521"], false),
        (&["-groups", "P-256"], true),
        (&["-groups", "P-384"], true),
        (&["-groups", "X25519:P-256"], true),
        (&["-groups", "P-256", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], false),
        (&["-groups", "P-256", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], true),
    ] {
        let (shook, said) = shakes(offer).await.unwrap();
        assert_eq!(shook, good, "{offer:?}: {said}");
    }
    let listed = world.authority().await.list_certificates(adm::ListCertificatesRequest {}).await.unwrap().into_inner();
    assert!(listed.crypto_profile.starts_with("crypto profile fips (fips module: "), "{}", listed.crypto_profile);
}
