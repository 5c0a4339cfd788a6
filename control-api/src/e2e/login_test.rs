//! How operators and robots come to their certificates, and what is on record of what they did.

use super::*;
use crate::operators::token;
use adm::access_client::AccessClient;
use adm::login_client::LoginClient;

impl World {
    async fn access(&self) -> AccessClient<Channel> {
        AccessClient::new(self.connect_as(self.operator_identity(), self.control.operators).await.unwrap())
    }

    /// As a machine that has nothing but a token.
    pub(super) async fn door(&self, root: RootFingerprint) -> LoginClient<Channel> {
        let store = self.empty_store();
        let expected = ExpectedPeer::PinnedRoot(root, SpiffeId::control_plane(store.trust_domain()));
        let channel = connect(store.client_config(&[b"h2"], expected), self.control.operators).await.unwrap();
        LoginClient::new(channel)
    }

    async fn access_token(&self, name: &str, role: &str, namespaces: &[&str]) -> JoinToken {
        let request = adm::CreateAccessTokenRequest {
            name: name.to_string(),
            role: role.to_string(),
            namespaces: namespaces.iter().map(|n| n.to_string()).collect(),
            ttl_seconds: 0,
        };
        let created = self.access().await.create_access_token(request).await.unwrap().into_inner();
        token::parse(&created.token).unwrap()
    }

    async fn redeem(&self, token: &JoinToken) -> Result<WorkloadIdentity, Status> {
        let key = csr::new_key().unwrap();
        let request = adm::RedeemRequest {
            secret: token.secret().to_string(),
            csr_der: csr::request(&key).unwrap(),
            ttl_seconds: 0,
        };
        let answer = self.door(token.root).await.redeem(request).await?.into_inner();
        assert_eq!(answer.address, self.control.operators.to_string());
        Ok(redeemed(self, answer, key))
    }

    fn signed_in(&self, answer: adm::LoginResponse, key: PrivateKey) -> WorkloadIdentity {
        let chain = answer.chain_der.into_iter().map(Into::into).collect();
        let bundle = TrustBundle::from_ders(answer.roots_der).unwrap();
        WorkloadIdentity::new(chain, key, bundle, isthmus_certs::Clock::now(&self.clock)).unwrap()
    }

    async fn admin_with(&self, identity: &WorkloadIdentity) -> AdminClient<Channel> {
        AdminClient::new(self.connect_as(identity.clone(), self.control.operators).await.unwrap())
    }

    async fn renew_login(&self, identity: &WorkloadIdentity) -> Result<WorkloadIdentity, Status> {
        let channel = self.connect_as(identity.clone(), self.control.operators).await.unwrap();
        let key = csr::new_key().unwrap();
        let request = adm::RenewLoginRequest { csr_der: csr::request(&key).unwrap(), ttl_seconds: 0 };
        let answer = LoginClient::new(channel).renew(request).await?.into_inner();
        Ok(self.signed_in(answer, key))
    }
}

pub(super) fn redeemed(world: &World, answer: adm::LoginResponse, key: PrivateKey) -> WorkloadIdentity {
    world.signed_in(answer, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robot_does_what_its_token_says_until_it_is_revoked() {
    let world = World::start().await;
    let token = world.access_token("ci", "policy-editor", &["shop"]).await;
    let robot = world.redeem(&token).await.unwrap();
    assert!(robot.chain.len() == 2 && robot.id.as_str().ends_with("/sa/operator-robot.ci"), "{}", robot.id);
    let mut ci = world.admin_with(&robot).await;
    assert_eq!(apply(&mut ci, POLICY).await.problems, []);
    let elsewhere = vec![adm::Document { source: "t".to_string(), yaml: POLICY.replace("shop", "hr") }];
    let elsewhere =
        adm::ApplyRequest { documents: elsewhere, dry_run: false, confirm_seconds: 0, ..Default::default() };
    assert_eq!(ci.apply(elsewhere).await.unwrap_err().code(), Code::PermissionDenied);
    let refused = ci.create_join_token(adm::CreateJoinTokenRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("operator robot.ci may not"), "{refused}");
    let renewed = world.renew_login(&robot).await.unwrap_err();
    assert!(renewed.message().contains("come with each sign-in"), "{renewed}");

    // Again and again, also after a restart; a wrong secret is not told from an unknown one.
    world.redeem(&token).await.unwrap();
    let other = JoinToken::generate(&token.address, &token.trust_domain, token.root).unwrap();
    assert!(world.redeem(&other).await.unwrap_err().message().contains("not known here"));
    let world = world.restart().await;
    let robot = world.redeem(&token).await.unwrap();
    let mut ci = world.admin_with(&robot).await;
    ci.list(adm::ListRequest::default()).await.unwrap();

    world.access().await.revoke_access_token(adm::RevokeAccessTokenRequest { id: token.id.clone() }).await.unwrap();
    let ended = ci.list(adm::ListRequest::default()).await.unwrap_err();
    assert!(ended.message().contains("is revoked"), "an open connection ends with its token: {ended}");
    assert!(world.redeem(&token).await.unwrap_err().message().contains("is revoked"));
    let listed = world.access().await.list_access_tokens(adm::ListAccessTokensRequest {}).await.unwrap().into_inner();
    let one = &listed.tokens[0];
    assert_eq!(
        (one.operator.as_str(), one.role.as_str(), one.state.as_str()),
        ("robot.ci", "policy-editor", "revoked")
    );
    assert!(one.last_used_unix_ms > 0 && one.created_by == "admin");
    let kept = format!("{:?}", world.control.ledger.store().facts("operators/").unwrap());
    assert!(kept.contains("robot.ci") && !kept.contains(token.secret().split_once('.').unwrap().1), "hashed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_robots_certificate_and_token_end() {
    let world = World::start().await;
    let token = world.access_token("nightly", "viewer", &[]).await;
    let robot = world.redeem(&token).await.unwrap();
    let mut open = world.admin_with(&robot).await;
    open.list(adm::ListRequest::default()).await.unwrap();
    world.clock.advance(Duration::from_secs(3700));
    assert_eq!(open.list(adm::ListRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
    world.clock.advance(Duration::from_secs(91 * 86_400));
    let world = world.restart().await;
    assert!(world.redeem(&token).await.unwrap_err().message().contains("is expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_good_once_and_a_person_renews_for_thirty_days() {
    let mut world = World::start().await;
    let token = world.access_token("bob", "", &[]).await;
    let bob = world.redeem(&token).await.unwrap();
    assert!(bob.id.as_str().ends_with("/sa/operator-bob"));
    assert!(world.redeem(&token).await.unwrap_err().message().contains("is used"));
    let refused = world.admin_with(&bob).await.list(adm::ListRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("the role viewer"), "an invitation gives no right: {refused}");

    // A certificate never outlives the sign-in: the last ones are shorter, and the way ends with them.
    let end = isthmus_certs::Clock::now_ms(&world.clock) / 1000 + 30 * 86_400;
    let mut held = bob;
    for times in 1.. {
        let left = end - i64::try_from(held.not_after.as_secs()).unwrap();
        assert!(left >= 0, "{times} renewals, and {left} s beyond the 30 days");
        if left == 0 {
            assert!((95..=104).contains(&times), "{times} renewals, one each 7 h");
            break;
        }
        world.clock.advance(Duration::from_secs(7 * 3600));
        // The control plane's own certificate lives a day by this clock; and what it knows of Bob is on disk.
        if times % 3 == 2 {
            world = world.restart().await;
        }
        held = world.renew_login(&held).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_roles_of_tokens_are_checked() {
    let world = World::start().await;
    let mut access = world.access().await;
    for (name, role, namespaces, says) in [
        ("admin", "", &[][..], "first operator"),
        ("robot.x", "viewer", &[], "is no name"),
        ("Bob", "", &[], "is no name"),
        ("", "viewer", &[], "is no name"),
        ("x", "root", &[], "a role is"),
        ("x", "policy-editor", &[], "at least one"),
        ("x", "admin", &["shop"], "whole mesh"),
        ("x", "", &["shop"], "OperatorRole"),
    ] {
        let (name, role) = (name.to_string(), role.to_string());
        let namespaces = namespaces.iter().map(|n: &&str| n.to_string()).collect();
        let request = adm::CreateAccessTokenRequest { name, role, namespaces, ttl_seconds: 0 };
        let refused = access.create_access_token(request).await.unwrap_err();
        assert!(refused.message().contains(says), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reaches_nothing_but_the_login() {
    let world = World::start().await;
    let token = world.token("shop/web").await;
    let store = world.empty_store();
    let expected = ExpectedPeer::PinnedRoot(token.root, SpiffeId::control_plane(store.trust_domain()));
    let channel = connect(store.client_config(&[b"h2"], expected), world.control.operators).await.unwrap();
    LoginClient::new(channel.clone()).methods(adm::MethodsRequest {}).await.unwrap();
    let refused = AdminClient::new(channel.clone()).list(adm::ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = AccessClient::new(channel.clone()).who_am_i(adm::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // A join token is no operator's, and the other way round.
    let csr_der = csr::request(&csr::new_key().unwrap()).unwrap();
    let request = adm::RedeemRequest { secret: token.secret().to_string(), csr_der, ttl_seconds: 0 };
    assert_eq!(LoginClient::new(channel).redeem(request).await.unwrap_err().code(), Code::Unauthenticated);
    let robot = world.access_token("ci", "admin", &[]).await;
    let refused = world.enroll(&robot, &csr::new_key().unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(JoinToken::parse(&token::format(&robot)).is_err() && token::parse(&token.format()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_on_record_with_who_what_and_the_difference() {
    let world = World::start().await;
    let token = world.access_token("ci", "policy-editor", &["shop"]).await;
    let robot = world.redeem(&token).await.unwrap();
    let mut ci = world.admin_with(&robot).await;
    let first = apply(&mut ci, POLICY).await;
    let second = apply(&mut ci, &POLICY.replace("[web]", "[web, cron]")).await;
    let key = adm::ResourceRef { kind: "ServicePolicy".into(), namespace: "shop".into(), name: "orders".into() };
    ci.delete(adm::DeleteRequest { resources: vec![key], dry_run: false }).await.unwrap();
    let dry = adm::ApplyRequest {
        documents: vec![adm::Document { source: "t".to_string(), yaml: POLICY.to_string() }],
        dry_run: true,
        confirm_seconds: 0,
        ..Default::default()
    };
    ci.apply(dry).await.unwrap();

    let world = world.restart().await;
    let lines = world.audit().await;
    let mine: Vec<_> = lines.iter().filter(|l| l["what"] == "changed" && l["operator"] == "robot.ci").collect();
    let revisions: Vec<_> = mine.iter().map(|line| line["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, [first.revision, second.revision, second.revision + 1]);
    let change = |at: usize| mine[at]["changes"][0].clone();
    assert_eq!((&change(0)["how"], &change(0)["resource"]), (&"created".into(), &"ServicePolicy shop/orders".into()));
    assert_eq!(change(0)["fields"][0]["to"]["spec"]["services"][0], "orders");
    assert_eq!(change(1)["how"], "updated");
    assert_eq!(change(1)["fields"][0]["path"], "spec.allow[0].from.serviceAccounts");
    assert_eq!(change(1)["fields"][0]["to"], serde_json::json!(["web", "cron"]));
    assert_eq!(change(2)["how"], "deleted");
    let mesh = lines.iter().find(|line| line["what"] == "changed" && line["operator"] == "admin").unwrap();
    assert_eq!(mesh["changes"].as_array().unwrap().len(), 5, "the mesh that the test begins with");
    let created = lines.iter().find(|line| line["what"] == "access-created").unwrap();
    assert_eq!((&created["operator"], &created["who"]), (&"admin".into(), &"robot.ci".into()));
    let signed_in = lines.iter().find(|line| line["what"] == "signed-in").unwrap();
    assert_eq!(signed_in["proof"], format!("robot-token {}", token.id));
    let verified = world.authority().await.verify_audit(adm::VerifyAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!(verified.fault, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_does_not_happen() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let before = world.control.ledger.world().revision;
    world.control.issuer.audit().break_for_test();
    let documents = vec![adm::Document { source: "t".to_string(), yaml: POLICY.to_string() }];
    let refused = operator
        .apply(adm::ApplyRequest { documents, dry_run: false, confirm_seconds: 0, ..Default::default() })
        .await
        .unwrap_err();
    assert!(refused.message().contains("audit log") && refused.message().contains("nothing was changed"), "{refused}");
    assert_eq!(world.control.ledger.world().revision, before);
}
