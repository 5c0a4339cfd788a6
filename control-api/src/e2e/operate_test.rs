//! The admin API as an operator's tools use it.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn names(changes: &[adm::Change]) -> Vec<String> {
    let name = |change: &adm::Change| {
        let resource = change.resource.clone().unwrap();
        format!("{:?} {} {}", change.kind(), resource.kind, resource.name)
    };
    changes.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_apply_changes_nothing_and_names_every_problem() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let before = world.control.ledger.world().revision;
    let yaml = format!("{POLICY}---\n{}", POLICY.replace("name: orders", "name: b").replace("[orders]", "[order]"));
    let answer = apply(&mut operator, &yaml).await;
    assert_eq!(answer.problems.len(), 1);
    let problem = &answer.problems[0];
    assert_eq!((problem.source.as_str(), problem.line, problem.column), ("t.yaml", 11, 20));
    assert_eq!(problem.field, "spec.services[0]");
    assert!(problem.reason.contains("did you mean `orders`?"), "{}", problem.reason);
    assert_eq!(answer.changes, [], "the sound one beside it is not applied either");
    assert_eq!(world.control.ledger.world().revision, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_follows_from_a_faulty_document_is_not_told() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let kind = |kind: &str, spec: &str| {
        format!("apiVersion: mesh.isthmus.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: new }}\nspec: {{ {spec} }}\n")
    };
    let yaml = format!("{}---\n{}", kind("Site", "rangs: [10.30.0.0/16]"), kind("Link", "sites: [dc1, new]"));
    let answer = apply(&mut operator, &yaml).await;
    let fields: Vec<&str> = answer.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["ranges", "rangs"].map(|field| format!("spec.{field}")), "{:?}", answer.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_says_what_it_did_and_a_dry_run_does_not_do_it() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let documents = vec![adm::Document { source: "-".to_string(), yaml: format!("{MESH}---\n{POLICY}") }];
    let request = adm::ApplyRequest { documents, dry_run: true, ..Default::default() };
    let planned = operator.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(names(&planned.changes).iter().filter(|n| n.starts_with("Unchanged")).count(), 5);
    assert_eq!(names(&planned.changes)[5], "Created ServicePolicy orders");
    let done = operator.apply(adm::ApplyRequest { dry_run: false, ..request.clone() }).await.unwrap().into_inner();
    assert_eq!(done.revision, planned.revision + 1, "the dry run made no revision");
    let again = operator.apply(adm::ApplyRequest { dry_run: false, ..request }).await.unwrap().into_inner();
    assert_eq!(again.revision, done.revision, "nothing changed, nothing committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_needed_cannot_be_deleted() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let site = adm::ResourceRef { kind: "Site".into(), name: "dc1".into(), namespace: String::new() };
    let gone = adm::ResourceRef { kind: "Site".into(), name: "dc9".into(), namespace: String::new() };
    let request = adm::DeleteRequest { resources: vec![site, gone], dry_run: false };
    let answer = operator.delete(request).await.unwrap().into_inner();
    let reasons: Vec<&str> = answer.problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert!(reasons.contains(&"there is no Site dc9"), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("there is no Site `dc1`")), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_reads_back_as_yaml_and_applies_as_unchanged() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let listed = operator.list(adm::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.resources.len(), 5);
    let yaml: Vec<String> = listed.resources.iter().map(|resource| resource.yaml.clone()).collect();
    let again = apply(&mut operator, &yaml.join("\n---\n")).await;
    assert_eq!(again.problems, []);
    assert_eq!(again.revision, listed.revision);
    let web = adm::ResourceRef { kind: "Workload".into(), namespace: "shop".into(), name: "web".into() };
    let got = operator
        .get(adm::GetRequest { resource: Some(web), status: false })
        .await
        .unwrap()
        .into_inner()
        .resource
        .unwrap();
    assert_eq!(got.origin, "api");
    let json: serde_json::Value = serde_json::from_str(&got.json).unwrap();
    assert_eq!(json["spec"]["serviceAccount"], "web");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gives_the_present_and_then_each_change_to_every_operator() {
    let world = World::start().await;
    let request = adm::WatchRequest { kind: "ServicePolicy".to_string(), ..Default::default() };
    let (mut one, mut two) = (world.operator().await, world.operator().await);
    let mut watching = one.watch(request).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().unwrap().synced, "no policy yet");
    apply(&mut two, POLICY).await;
    let event = tokio::time::timeout(SOON, watching.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.kind(), adm::ChangeKind::Created);
    let policy = event.resource.unwrap().resource;
    two.delete(adm::DeleteRequest { resources: policy.into_iter().collect(), dry_run: false }).await.unwrap();
    let event = tokio::time::timeout(SOON, watching.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.kind(), adm::ChangeKind::Deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_status_tells_how_far_a_change_has_got_while_it_gets_there() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    let first = orders.delta().await.version;
    orders.ack(first).await;
    let kind = "ServicePolicy".to_string();
    let (mut one, mut two) = (world.operator().await, world.operator().await);
    let with_status = adm::WatchRequest { kind: kind.clone(), status: true, ..Default::default() };
    let mut watching = one.watch(with_status).await.unwrap().into_inner();
    let mut without = one.watch(adm::WatchRequest { kind, ..Default::default() }).await.unwrap().into_inner();
    assert!(watching.message().await.unwrap().unwrap().synced, "no policy yet");
    assert!(without.message().await.unwrap().unwrap().synced);
    apply(&mut two, POLICY).await;
    let event = tokio::time::timeout(SOON, watching.message()).await.unwrap().unwrap().unwrap();
    let created = event.resource.clone().unwrap();
    assert_eq!((event.kind(), created.in_force), (adm::ChangeKind::Created, 0));
    assert!(created.json.contains("InForce"), "{}", created.json);
    let version = orders.delta().await.version;
    orders.ack(version).await;
    let told = loop {
        let event = tokio::time::timeout(SOON, watching.message()).await.unwrap().unwrap().unwrap();
        assert_eq!((event.kind(), event.revision), (adm::ChangeKind::Status, created.revision));
        let stored = event.resource.unwrap();
        if stored.affected == 1 && stored.in_force == 1 {
            break stored;
        }
    };
    assert!(told.json.contains("Everywhere"), "{}", told.json);
    let policy = told.resource;
    two.delete(adm::DeleteRequest { resources: policy.into_iter().collect(), dry_run: false }).await.unwrap();
    let event = tokio::time::timeout(SOON, watching.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.kind(), adm::ChangeKind::Deleted);
    // Whoever did not ask for it is told of changes alone.
    for kind in [adm::ChangeKind::Created, adm::ChangeKind::Deleted] {
        let event = tokio::time::timeout(SOON, without.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.kind(), kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_port_is_for_operators() {
    let world = World::start().await;
    let web = world.join("shop/web").await;
    let refused = match world.connect_as(web, world.control.operators).await {
        Ok(channel) => AdminClient::new(channel).list(adm::ListRequest::default()).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    use std::os::unix::fs::PermissionsExt;
    let mode = |file: &str| std::fs::metadata(world.dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("state/operator.yaml"), 0o600);
    assert_eq!(mode("state"), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_without_their_secret() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    let used = world.token("shop/web").await;
    world.enroll(&used, &csr::new_key().unwrap()).await.unwrap();
    world.token("shop/orders").await;
    let listed = operator.list_join_tokens(adm::ListJoinTokensRequest {}).await.unwrap().into_inner();
    let mut states: Vec<(&str, &str)> =
        listed.tokens.iter().map(|token| (token.workload.as_str(), token.state.as_str())).collect();
    states.sort_unstable();
    assert_eq!(states, [("shop/orders", "unused"), ("shop/web", "used")]);
    let stored = format!("{:?}", world.control.ledger.store().tokens().unwrap());
    assert!(!stored.contains(used.secret().split_once('.').unwrap().1));
    let missing = adm::CreateJoinTokenRequest { workload: "shop/nobody".to_string(), ttl_seconds: 0 };
    assert_eq!(operator.create_join_token(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_say_whether_it_is_ready_and_how_it_does() {
    let world = World::start().await;
    let get = async |path: &str| {
        let mut tcp = TcpStream::connect(world.control.metrics).await.unwrap();
        tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(get("/ready").await.starts_with("HTTP/1.1 200"));
    let page = get("/metrics").await;
    assert!(page.contains("isthmus_controlplane_resources{kind=\"Workload\"} 2"));
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    for (name, help) in page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')) {
        let there = document.lines().any(|row| row.starts_with(&format!("| `{name}` |")) && row.contains(help));
        assert!(there, "docs/metrics.md lacks {name}: {help}");
    }
    assert!(get("/").await.starts_with("HTTP/1.1 404"));
}

fn part(yaml: &str, continues: bool) -> adm::ApplyPart {
    let documents = vec![adm::Document { source: "big.yaml".to_string(), yaml: yaml.to_string() }];
    adm::ApplyPart { documents, continues, ..adm::ApplyPart::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_large_apply_are_one_change_or_none() {
    let world = World::start().await;
    let before = world.control.ledger.world().revision;
    let vm = |n: usize, ip: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: {{ namespace: shop, name: vm{n} }}\nspec: {{ site: dc1, addresses: [{ip}], serviceAccount: vm }}\n---\n"
        )
    };
    // More than the 1,024 documents of a text that serde-saphyr takes by itself.
    let all: Vec<String> = (0..1500).map(|n| vm(n, &format!("10.20.{}.{}", 100 + n / 250, n % 250))).collect();
    let text = all.concat();
    let (head, tail) = text.split_at(text.len() / 2 + 7);
    let mut operator = world.operator().await;
    let overlapping = part(&vm(9999, "10.20.1.10"), false);
    let parts = [part(head, false), part(tail, true), overlapping];
    let refused = operator.apply_stream(tokio_stream::iter(parts)).await.unwrap().into_inner();
    assert!(
        refused.problems.iter().any(|p| p.reason.contains("already belongs to Workload shop/orders")),
        "{:?}",
        refused.problems
    );
    assert_eq!(world.control.ledger.world().revision, before, "one fault in the last part: nothing was changed");
    let parts = [part(head, false), part(tail, true)];
    let applied = operator.apply_stream(tokio_stream::iter(parts)).await.unwrap().into_inner();
    assert_eq!((applied.problems.len(), applied.changes.len(), applied.revision), (0, 1500, before + 1));
    let lost = operator.apply_stream(tokio_stream::iter([part("a: 1", true)])).await.unwrap_err();
    assert!(lost.message().contains("goes on from a document that is not there"), "{lost}");
}
