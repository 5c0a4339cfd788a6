//! First contact and renewal, and every way in which they are refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_its_workloads_identity_and_no_other() {
    let world = World::start().await;
    let key = csr::new_key().unwrap();
    let token = world.token("shop/web").await;
    let answer = world.enroll(&token, &key).await.unwrap();
    assert_eq!(answer.workload, "shop/web");
    let identity = identity(answer.certificate.unwrap(), key, &world.clock);
    assert_eq!(identity.id.as_str(), "spiffe://shop.example/ns/shop/sa/web");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_but_a_lost_answer_can_be_asked_for_again() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let key = csr::new_key().unwrap();
    world.enroll(&token, &key).await.unwrap();
    world.enroll(&token, &key).await.expect("the same key again");
    let refused = world.enroll(&token, &csr::new_key().unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("was used"), "{refused}");
    let world = world.restart().await;
    let refused = world.enroll(&token, &csr::new_key().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("was used"), "also after a restart: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_gets_in() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let keys: Vec<_> = (0..8).map(|_| csr::new_key().unwrap()).collect();
    let tries = keys.iter().map(|key| world.enroll(&token, key));
    let won = futures::future::join_all(tries).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_to_do() {
    let world = World::start().await;
    let key = csr::new_key().unwrap();
    let mut operator = world.operator().await;

    let expired = world.token("shop/web").await;
    world.clock.advance(Duration::from_secs(61));
    let refused = world.enroll(&expired, &key).await.unwrap_err();
    assert!(refused.message().contains("expired 1 s ago; create a new one"), "{refused}");

    let revoked = world.token("shop/web").await;
    operator.revoke_join_token(adm::RevokeJoinTokenRequest { id: revoked.id.clone() }).await.unwrap();
    let refused = world.enroll(&revoked, &key).await.unwrap_err();
    assert!(refused.message().contains("was revoked"), "{refused}");

    let other_mesh = JoinToken::generate("a:1", &TrustDomain::parse("shop.example").unwrap(), revoked.root).unwrap();
    let refused = world.enroll(&other_mesh, &key).await.unwrap_err();
    assert!(refused.message().contains("not known here"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_mended_does_not_use_the_token_up() {
    let world = World::start().await;
    let key = csr::new_key().unwrap();
    let mut operator = world.operator().await;
    let token = world.token("shop/web").await;
    let request = enroll_request(&token, &key, NOW_MS + 3 * 3_600_000);
    let refused = world.pinned(token.root).await.unwrap().enroll(request).await.unwrap_err();
    assert!(refused.message().starts_with("clock skew 3 h 0 m: this machine is ahead"), "{refused}");

    let mut damaged = enroll_request(&token, &key, 0);
    damaged.csr_der[40] ^= 1;
    let refused = world.pinned(token.root).await.unwrap().enroll(damaged).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    let web = adm::ResourceRef { kind: "Workload".into(), namespace: "shop".into(), name: "web".into() };
    operator.delete(adm::DeleteRequest { resources: vec![web], dry_run: false }).await.unwrap();
    let refused = world.enroll(&token, &key).await.unwrap_err();
    assert!(refused.message().contains("does not exist any more"), "{refused}");
    apply(&mut operator, MESH).await;
    world.enroll(&token, &key).await.expect("no refusal has used the token up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_with_another_root_is_sent_nothing() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let other = RootFingerprint::parse(&"ab".repeat(32)).unwrap();
    assert!(world.pinned(other).await.is_err());
    world.enroll(&token, &csr::new_key().unwrap()).await.expect("the token is unused");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_needs_the_certificate_and_keeps_the_identity() {
    let world = World::start().await;
    let old = world.join("shop/web").await;
    let key = csr::new_key().unwrap();
    let request =
        || idv::RenewRequest { csr_der: csr::request(&key).unwrap(), client_time_unix_ms: NOW_MS, machine: None };

    let token = world.token("shop/web").await;
    let refused = world.pinned(token.root).await.unwrap().renew(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "without a certificate: {refused}");

    let operator = world.connect_as(world.operator_identity(), world.control.proxies).await.unwrap();
    let refused = IdentityClient::new(operator).renew(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "an operator is no workload: {refused}");

    let mut client = IdentityClient::new(world.connect_as(old.clone(), world.control.proxies).await.unwrap());
    let answer = client.renew(request()).await.unwrap().into_inner();
    let new = identity(answer.certificate.unwrap(), key.clone(), &world.clock);
    assert_eq!(new.id, old.id);
    assert_ne!(new.serial, old.serial);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaf_lifetime_is_the_meshs() {
    let world = World::start().await;
    let short = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\nspec: { vipRanges: [10.96.0.0/16], certificates: { leafLifetime: 60s } }\n";
    let applied = apply(&mut world.operator().await, short).await;
    assert!(applied.warnings[0].contains("less than 30 minutes"), "{:?}", applied.warnings);
    let identity = world.join("shop/web").await;
    assert_eq!(identity.not_after.as_secs(), (NOW_MS / 1000) as u64 + 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_comes_back_with_the_same_root_revision_and_tokens() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let before = world.control.ledger.world();
    let world = world.restart().await;
    let after = world.control.ledger.world();
    assert_eq!((after.revision, &after.resources, &after.vips), (before.revision, &before.resources, &before.vips));
    assert!(after.vips.addresses().next().is_some(), "the service without clusterIP keeps its VIP");
    world.enroll(&token, &csr::new_key().unwrap()).await.unwrap();
}
