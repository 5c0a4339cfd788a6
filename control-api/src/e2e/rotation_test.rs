//! A change of roots and a revocation, as operators and proxies live through them.

use super::*;
use adm::RotationStep::{self, Abort, Promote, Retire, Start};

impl World {
    async fn rotate(&self, step: RotationStep, force: bool) -> Result<adm::RotateResponse, Status> {
        let request = adm::RotateRequest { step: step.into(), force };
        self.authority().await.rotate(request).await.map(|answer| answer.into_inner())
    }

    async fn renew(&self, old: &WorkloadIdentity) -> Result<WorkloadIdentity, Status> {
        let key = csr::new_key().unwrap();
        let channel = self.connect_as(old.clone(), self.control.proxies).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let request = idv::RenewRequest { csr_der: csr::request(&key).unwrap(), client_time_unix_ms: 0, machine: None };
        let answer = IdentityClient::new(channel).renew(request).await?.into_inner();
        Ok(identity(answer.certificate.unwrap(), key, &self.clock))
    }

    async fn revoke(&self, serial: &str, spiffe_id: &str) -> adm::RevokeResponse {
        let (serial, spiffe_id, reason) = (serial.to_string(), spiffe_id.to_string(), "lost".to_string());
        let request = adm::RevokeRequest { serial, spiffe_id, reason };
        self.authority().await.revoke(request).await.unwrap().into_inner()
    }
}

fn roots_of(delta: &disc::Delta) -> usize {
    mesh_of(delta).roots_der.len()
}

fn mesh_of(delta: &disc::Delta) -> disc::Mesh {
    let mut meshes = delta.upserts.iter().filter_map(|resource| match resource.body.clone() {
        Some(disc::resource::Body::Mesh(mesh)) => Some(mesh),
        _ => None,
    });
    meshes.next_back().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_replaced_step_by_step_and_nobody_is_cut_off() {
    let world = World::start().await;
    let mut web = world.join("shop/web").await;
    let mut proxy = world.stream(web.clone(), "shop/web", &[]).await;
    let first = proxy.delta().await;
    proxy.ack(first.version).await;
    let old_root = web.bundle.fingerprints().to_vec();

    assert_eq!(world.rotate(Promote, false).await.unwrap_err().code(), Code::FailedPrecondition);
    world.rotate(Start, false).await.unwrap();
    let pushed = proxy.delta().await;
    assert_eq!(roots_of(&pushed), 2);
    let refused = world.rotate(Promote, false).await.unwrap();
    assert!(refused.refused, "{refused:?}");
    assert!(refused.not_yet[0].starts_with("shop/web: connected, has not acknowledged"), "{:?}", refused.not_yet);
    proxy.ack(pushed.version).await;
    // The acknowledgement travels on another connection than the question.
    let promoted = loop {
        let answer = world.rotate(Promote, false).await.unwrap();
        if !answer.refused {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(promoted.phase, "issuing");
    assert!(promoted.not_yet[0].starts_with("shop/web: certificate of the old root"), "{:?}", promoted.not_yet);
    assert!(world.rotate(Retire, false).await.unwrap().refused);

    // Who joins now joins under the old pin and gets the new root's certificate.
    let orders = world.join("shop/orders").await;
    assert_eq!(orders.bundle.fingerprints().len(), 2);
    web = world.renew(&web).await.unwrap();
    let world = world.restart().await;
    let retired = world.rotate(Retire, false).await.unwrap();
    assert!(!retired.refused, "{:?}", retired.not_yet);
    assert_eq!((retired.phase.as_str(), retired.roots.len()), ("settled", 1));
    assert!(!old_root.iter().any(|old| old.to_string() == retired.roots[0].fingerprint));
    let web = world.renew(&web).await.unwrap();
    assert_eq!(web.bundle.fingerprints().len(), 1);
    assert_eq!(world.token("shop/web").await.root, web.bundle.fingerprints()[0], "tokens name the new root");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_can_be_given_up_before_and_after_it_issues() {
    let world = World::start().await;
    let before = world.rotate(RotationStep::Unspecified, false).await.unwrap().roots;
    world.rotate(Start, false).await.unwrap();
    let given_up = world.rotate(Abort, false).await.unwrap();
    assert_eq!((given_up.phase.as_str(), &given_up.roots), ("settled", &before));

    world.rotate(Start, false).await.unwrap();
    let forced = world.rotate(Promote, true).await.unwrap();
    assert_eq!(forced.phase, "issuing");
    let back = world.rotate(Abort, false).await.unwrap();
    assert_eq!(
        (back.phase.as_str(), &back.roots[0].fingerprint),
        ("issuing", &before[0].fingerprint),
        "the old one issues"
    );
    assert!(!world.rotate(Retire, true).await.unwrap().refused);
    assert_eq!(world.rotate(RotationStep::Unspecified, false).await.unwrap().roots, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_out_at_once_everywhere_and_stays_out() {
    let world = World::start().await;
    let web = world.join("shop/web").await;
    let mut proxy = world.proxy("shop/orders", &[]).await;
    proxy.delta().await;
    let mut of_web = world.stream(web.clone(), "shop/web", &[]).await;
    of_web.delta().await;
    let revoked = world.revoke(&web.serial.to_string(), "").await;
    assert_eq!(revoked.serials, [web.serial.to_string()]);
    let told = mesh_of(&proxy.delta().await).revocations.unwrap();
    assert_eq!((told.serials, told.epoch), (vec![web.serial.as_bytes().to_vec()], revoked.epoch));
    assert_eq!(of_web.ended().await.code(), Code::PermissionDenied, "its own stream ends");
    world.renew(&web).await.expect_err("no new certificate for it");
    let world = world.restart().await;
    world.renew(&web).await.expect_err("nor after a restart");
    let again = world.join("shop/web").await;
    world.renew(&again).await.expect("a new token is a new beginning");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_comes_back_only_by_a_token_made_afterwards() {
    let world = World::start().await;
    let (web, unused) = (world.join("shop/web").await, world.token("shop/web").await);
    world.revoke("", web.id.as_str()).await;
    let refused = world.enroll(&unused, &csr::new_key().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("was revoked after join-token"), "{refused}");
    world.renew(&web).await.expect_err("all that it was issued is out");
    world.clock.advance(Duration::from_secs(2));
    let token = world.token("shop/web").await;
    let key = csr::new_key().unwrap();
    let request = enroll_request(&token, &key, 0);
    let answer = world.pinned(token.root).await.unwrap().enroll(request).await.unwrap().into_inner();
    world.renew(&identity(answer.certificate.unwrap(), key, &world.clock)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_store_that_is_put_back_revives_neither_the_revoked_nor_used_tokens() {
    let world = World::start().await;
    let (token, web) = (world.token("shop/web").await, world.join("shop/orders").await);
    let World { dir, control, clock, shutdown } = world;
    shutdown.cancel();
    control.ended().await.unwrap();
    let store = dir.path().join("state/store.redb");
    let backup = std::fs::read(&store).unwrap();

    let shutdown = CancellationToken::new();
    let control = start_in(dir.path(), &clock, &shutdown).await;
    let world = World { dir, control, clock, shutdown };
    world.enroll(&token, &csr::new_key().unwrap()).await.unwrap();
    world.revoke(&web.serial.to_string(), "").await;
    let World { dir, control, clock, shutdown } = world;
    shutdown.cancel();
    control.ended().await.unwrap();

    std::fs::write(&store, backup).unwrap();
    let shutdown = CancellationToken::new();
    let control = start_in(dir.path(), &clock, &shutdown).await;
    let world = World { dir, control, clock, shutdown };
    let refused = world.enroll(&token, &csr::new_key().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("was used"), "{refused}");
    world.renew(&web).await.expect_err("revoked stays revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_in_use_is_listed_with_what_is_wrong_with_it() {
    let world = World::start().await;
    let web = world.join("shop/web").await;
    world.revoke(&web.serial.to_string(), "").await;
    let request = adm::ListCertificatesRequest {};
    let listed = world.authority().await.list_certificates(request).await.unwrap().into_inner();
    assert_eq!(listed.roots.len(), 1);
    let names: Vec<_> = listed.certificates.iter().map(|c| c.spiffe_id.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["web", "control", "operator-admin"], "trouble first, then what ends first");
    assert_eq!(
        (&listed.certificates[0].workload, &listed.certificates[0].troubles[0]),
        (&"shop/web".into(), &"revoked".into())
    );
    assert_eq!(listed.certificates[0].serial, web.serial.to_string());
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_all(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

impl World {
    /// Stops it, has `change` done to its state directory, and starts it again.
    async fn stopped(self, change: impl FnOnce(&std::path::Path)) -> World {
        let World { dir, control, clock, shutdown } = self;
        shutdown.cancel();
        control.ended().await.unwrap();
        change(&dir.path().join("state"));
        let shutdown = CancellationToken::new();
        let control = start_in(dir.path(), &clock, &shutdown).await;
        World { dir, control, clock, shutdown }
    }

    /// A stream whose hello shows these revocations.
    async fn stream_showing(&self, who: &WorkloadIdentity, workload: &str, shown: disc::Revocations) -> Proxy {
        let channel = self.connect_as(who.clone(), self.control.proxies).await.unwrap();
        let (send, messages) = mpsc::channel(16);
        let (workload, revocations) = (workload.to_string(), Some(shown));
        let hello = disc::Hello { protocol: PROTOCOL, workload, revocations, ..disc::Hello::default() };
        send.send(disc::ProxyMessage { message: Some(disc::proxy_message::Message::Hello(hello)) }).await.unwrap();
        let answer = DiscoveryClient::new(channel).stream(ReceiverStream::new(messages)).await.unwrap();
        Proxy { send, receive: answer.into_inner(), parts: Vec::new(), synced: false }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_state_that_is_put_back_learns_from_proxies_what_it_has_forgotten() {
    let world = World::start().await;
    let backup = tempfile::tempdir().unwrap();
    let (orders, old) = (world.join("shop/orders").await, world.token("shop/web").await);
    let web_token = world.token("shop/web").await;
    let world = world.stopped(|state| copy_all(state, backup.path())).await;

    world.clock.advance(Duration::from_secs(2));
    let key = csr::new_key().unwrap();
    let request = enroll_request(&web_token, &key, 0);
    let answer = world.pinned(web_token.root).await.unwrap().enroll(request).await.unwrap().into_inner();
    let web = identity(answer.certificate.unwrap(), key, &world.clock);
    world.revoke(&orders.serial.to_string(), "").await;
    let shown = mesh_of(&world.stream(web.clone(), "shop/web", &[]).await.delta().await).revocations.unwrap();

    let world = world.stopped(|state| {
        std::fs::remove_dir_all(state).unwrap();
        copy_all(backup.path(), state);
    });
    let world = world.await;
    // As yesterday: nobody has said anything yet, and a thief is quick.
    let stolen = world.renew(&orders).await.expect("nobody knows better");
    // What was not signed is not taken, whoever says it.
    let forged = disc::Revocations { epoch: shown.epoch + 1, ..shown.clone() };
    let mut forger = world.stream_showing(&stolen, "shop/orders", forged).await;
    forger.delta().await;
    world.clock.advance(Duration::from_secs(2));
    let fresh = world.token("shop/orders").await;

    let mut back = world.stream_showing(&web, "shop/web", shown.clone()).await;
    let told = mesh_of(&back.delta().await).revocations.expect("they are in force");
    assert!(told.epoch >= shown.epoch && told.serials.contains(&orders.serial.as_bytes().to_vec()), "{told:?}");
    assert!(told.serials.contains(&stolen.serial.as_bytes().to_vec()), "what it was renewed to is out as well");
    world.renew(&orders).await.expect_err("revoked");
    world.renew(&stolen).await.expect_err("and so is what came of it");
    for spent in [&old, &web_token] {
        let refused = world.enroll(spent, &csr::new_key().unwrap()).await.unwrap_err();
        assert!(refused.message().contains("was revoked"), "{refused}");
    }
    world.enroll(&fresh, &csr::new_key().unwrap()).await.expect("a token that was made since");
    let next = world.revoke(&web.serial.to_string(), "").await;
    assert!(next.epoch > shown.epoch, "proxies take what comes now");
    let lines = world.audit().await;
    let count = |what: &str| lines.iter().filter(|line| line["what"] == what).count();
    assert_eq!((count("found"), count("reminded")), (1, 1));
}
