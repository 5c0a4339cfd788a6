//! What was changed, and the way back, as an operator's tools see it.

use super::*;
use adm::resources_client::ResourcesClient;

const LARGE: &str = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: dc2 LABELS}\nspec: { ranges: [10.30.0.0/16] }\n";

async fn resources(world: &World) -> ResourcesClient<Channel> {
    ResourcesClient::new(world.connect_as(world.operator_identity(), world.control.operators).await.unwrap())
}

fn reference(kind: &str, namespace: &str, name: &str) -> Option<adm::ResourceRef> {
    Some(adm::ResourceRef { kind: kind.into(), namespace: namespace.into(), name: name.into() })
}

fn document(yaml: &str) -> Vec<adm::Document> {
    vec![adm::Document { source: "t.yaml".to_string(), yaml: yaml.to_string() }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_taken_back_to_what_it_was() {
    let world = World::start().await;
    let (mut operator, mut resources) = (world.operator().await, resources(&world).await);
    let first = apply(&mut operator, POLICY).await.revision;
    let second = apply(&mut operator, &POLICY.replace("[web]", "[web, batch]")).await.revision;
    let request = adm::HistoryRequest {
        resource: reference("ServicePolicy", "shop", "orders"),
        texts: true,
        ..Default::default()
    };
    let told = resources.history(request).await.unwrap().into_inner();
    let revisions: Vec<(u64, &str, &str)> =
        told.revisions.iter().map(|r| (r.revision, r.who.as_str(), r.how.as_str())).collect();
    assert_eq!(revisions, [(second, "admin", "apply"), (first, "admin", "apply")]);
    assert_eq!((told.revisions[0].at_unix_ms, told.present), (NOW_MS, second));
    let change = &told.revisions[0].changes[0];
    assert!(!change.before_yaml.contains("batch") && change.after_yaml.contains("batch"), "{change:?}");

    let back = adm::RollbackRequest { revision: first, dry_run: true, ..Default::default() };
    let shown = resources.rollback(back.clone()).await.unwrap().into_inner();
    assert_eq!((shown.changes.len(), shown.revision), (1, second));
    assert!(shown.changes[0].before_yaml.contains("batch") && !shown.changes[0].after_yaml.contains("batch"));
    let stale = adm::RollbackRequest { if_revision: first, dry_run: false, ..back.clone() };
    assert_eq!(resources.rollback(stale).await.unwrap_err().code(), Code::Aborted, "not what was shown");
    let back = adm::RollbackRequest { if_revision: second, dry_run: false, ..back };
    assert_eq!(resources.rollback(back).await.unwrap().into_inner().revision, second + 1);
    let request = adm::GetRequest { resource: reference("ServicePolicy", "shop", "orders"), status: true };
    let got = operator.get(request).await.unwrap().into_inner().resource.unwrap();
    assert!(!got.yaml.contains("batch"), "{}", got.yaml);
    assert_eq!((got.changed_by.as_str(), got.changed_unix_ms, got.revision), ("admin", NOW_MS, second + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_outlives_a_restart_and_is_bounded() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    for n in 1..=12 {
        apply(&mut operator, &POLICY.replace("[web]", &format!("[web{n}]"))).await;
    }
    drop(operator);
    let world = world.restart().await;
    let mut resources = resources(&world).await;
    let told = resources.history(adm::HistoryRequest::default()).await.unwrap().into_inner();
    assert_eq!(told.revisions.len(), 8, "as the configuration of these tests says");
    let refused = adm::RollbackRequest { revision: 1, ..Default::default() };
    let refused = resources.rollback(refused).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&format!("go back to {} or later", told.oldest)), "{}", refused.message());
    let back = adm::RollbackRequest { revision: told.oldest, ..Default::default() };
    assert_eq!(resources.rollback(back).await.unwrap().into_inner().problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_of_what_others_changed_meanwhile_is_a_conflict_that_names_both() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    apply(&mut operator, POLICY).await;
    let request = adm::GetRequest { resource: reference("ServicePolicy", "shop", "orders"), status: false };
    let mine = operator.get(request).await.unwrap().into_inner().resource.unwrap();
    let seen = mine.revision;
    assert!(mine.yaml.contains("resourceVersion"), "{}", mine.yaml);
    let theirs = apply(&mut operator, &POLICY.replace("[web]", "[batch]")).await.revision;
    let refused = apply(&mut operator, &mine.yaml.replace("- web", "- other")).await;
    assert_eq!(refused.problems.len(), 1, "{:?}", refused.problems);
    let problem = &refused.problems[0];
    assert_eq!(problem.field, "metadata.resourceVersion");
    let both = format!("written from version {seen}, and ServicePolicy shop/orders is at version {theirs}");
    assert!(problem.reason.contains(&both) && problem.line > 0, "{problem:?}");
    assert_eq!(world.control.ledger.world().revision, theirs, "nothing was changed");
    let fresh = mine
        .yaml
        .replace(&format!("\"{seen}\""), &theirs.to_string())
        .replace(&format!("'{seen}'"), &theirs.to_string());
    let done = apply(&mut operator, &fresh).await;
    assert_eq!((done.problems, done.revision), (vec![], theirs + 1), "{fresh}");
    // Of two that write from the same version, one wins, whoever that is.
    let again = apply(&mut operator, &fresh.replace("- web", "- late")).await;
    assert_eq!(again.problems.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_takes_what_the_set_held_and_nothing_else() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let site = |name: &str, range: u8, labels: &str| {
        LARGE.replace("dc2", name).replace("10.30", &format!("10.{range}")).replace("LABELS", labels)
    };
    let prune = |set: &str| Some(adm::Prune { set: set.to_string(), ..Default::default() });
    let both = format!("{}---\n{}", site("dc2", 30, ""), site("dc3", 31, ""));
    let request = adm::ApplyRequest { documents: document(&both), prune: prune("sites"), ..Default::default() };
    let done = operator.apply(request).await.unwrap().into_inner();
    assert_eq!((done.problems, done.changes.len()), (vec![], 2), "the rest of the mesh is not of this set");
    let one = adm::ApplyRequest {
        documents: document(&site("dc2", 30, "")),
        prune: prune("sites"),
        dry_run: true,
        ..Default::default()
    };
    let shown = operator.apply(one.clone()).await.unwrap().into_inner();
    let kinds: Vec<_> = shown.changes.iter().map(|c| (c.kind(), c.resource.clone().unwrap().name)).collect();
    let expected = [(adm::ChangeKind::Unchanged, "dc2".to_string()), (adm::ChangeKind::Deleted, "dc3".to_string())];
    assert_eq!(kinds, expected);
    assert!(shown.changes[1].before_yaml.contains("10.31.0.0/16"), "what would go is shown");
    let done = operator.apply(adm::ApplyRequest { dry_run: false, ..one }).await.unwrap().into_inner();
    assert_eq!((done.problems, done.changes.len()), (vec![], 2));
    let left: Vec<String> =
        world.control.ledger.world().resources.of_kind("Site", None).map(|r| r.key.name.clone()).collect();
    assert_eq!(left, ["dc1", "dc2"]);
    let empty = adm::ApplyRequest { documents: document("# nothing"), prune: prune("sites"), ..Default::default() };
    assert_eq!(operator.apply(empty).await.unwrap_err().code(), Code::InvalidArgument);

    // By labels: what bears them; and a document without them is refused, as the next prune would not find it.
    let labels = Some(adm::Prune { labels: [("team".to_string(), "net".to_string())].into(), ..Default::default() });
    let bare =
        adm::ApplyRequest { documents: document(&site("dc4", 32, "")), prune: labels.clone(), ..Default::default() };
    let refused = operator.apply(bare).await.unwrap().into_inner();
    assert!(refused.problems[0].reason.contains("lacks team=net"), "{:?}", refused.problems);
    let mine = ", labels: { team: net } ";
    for name_and_range in [("dc4", 32), ("dc5", 33)] {
        let documents = document(&site(name_and_range.0, name_and_range.1, mine));
        let request = adm::ApplyRequest { documents, prune: labels.clone(), ..Default::default() };
        assert_eq!(operator.apply(request).await.unwrap().into_inner().problems, []);
    }
    let left: Vec<String> =
        world.control.ledger.world().resources.of_kind("Site", None).map(|r| r.key.name.clone()).collect();
    assert_eq!(left, ["dc1", "dc2", "dc5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_in_how_many_proxies_it_is_in_force() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let mut proxy = world.proxy("shop/orders", &[]).await;
    let version = proxy.delta().await.version;
    proxy.ack(version).await;
    let policy = apply(&mut operator, POLICY).await.revision;
    let request = adm::GetRequest { resource: reference("ServicePolicy", "shop", "orders"), status: true };
    let mut condition = async |kind: &str| {
        let got = operator.get(request.clone()).await.unwrap().into_inner().resource.unwrap();
        let json: serde_json::Value = serde_json::from_str(&got.json).unwrap();
        let all = json["status"]["conditions"].as_array().unwrap().clone();
        let found = all.into_iter().find(|condition| condition["type"] == kind).unwrap();
        (found["status"].as_str().unwrap().to_string(), found["message"].as_str().unwrap().to_string())
    };
    assert_eq!(condition("Accepted").await, ("True".to_string(), format!("stored at revision {policy}")));
    assert_eq!(condition("Conflicted").await.0, "False");
    assert_eq!(condition("InForce").await.0, "False");
    let version = proxy.delta().await.version;
    proxy.ack(version).await;
    let wait = world.operator().await.wait_in_force(adm::WaitInForceRequest { revision: policy }).await;
    let mut progress = wait.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    let (holds, message) = condition("InForce").await;
    assert_eq!(holds, "True");
    assert!(message.starts_with("1 of 1 connected proxies"), "{message}");
}
