//! Decisions, break-glass and confirmation over gRPC, as a proxy and an operator use them.

use super::*;
use isthmus_proto::admin::v1::policy_client::PolicyClient;
use isthmus_proto::flows::v1 as flows;
use isthmus_proto::flows::v1::flows_client::FlowsClient;

impl World {
    async fn policy(&self) -> PolicyClient<Channel> {
        PolicyClient::new(self.connect_as(self.operator_identity(), self.control.operators).await.unwrap())
    }

    pub(super) async fn reporter(&self, workload: &str) -> FlowsClient<Channel> {
        let identity = self.join(workload).await;
        FlowsClient::new(self.connect_as(identity, self.control.proxies).await.unwrap())
    }
}

fn flow(identity: &str) -> flows::Flow {
    flows::Flow {
        identity: identity.into(),
        address: "10.20.1.11".into(),
        port: 8080,
        transport: flows::Transport::Mesh.into(),
        method: "GET".into(),
        path: "/orders/{id}".into(),
        verdict: flows::Verdict::Allowed.into(),
        count: 3,
        first_seen_unix_ms: NOW_MS - 1000,
        last_seen_unix_ms: NOW_MS,
        ..Default::default()
    }
}

pub(super) fn report(workload: &str, sequence: u64) -> flows::ReportRequest {
    let web = "spiffe://shop.example/ns/shop/sa/web";
    let refusal = flows::Refusal {
        id: "0123456789abcdef".into(),
        at_unix_ms: NOW_MS,
        reason: "not-allowed".into(),
        enforced: true,
        address: "10.20.1.11".into(),
        port: 8080,
        policy: "shop/orders".into(),
        ..Default::default()
    };
    flows::ReportRequest {
        workload: workload.into(),
        life: 1,
        sequence,
        flows: vec![flow(web), flow("")],
        refusals: vec![refusal],
        flows_dropped: 5,
        ..Default::default()
    }
}

async fn list(world: &World, request: adm::ListFlowsRequest) -> (adm::Coverage, Vec<adm::RecordedFlow>) {
    let mut answer = world.policy().await.list_flows(request).await.unwrap().into_inner();
    let coverage = answer.message().await.unwrap().unwrap().coverage.unwrap();
    let mut flows = Vec::new();
    while let Some(part) = answer.message().await.unwrap() {
        flows.extend(part.flows);
    }
    (coverage, flows)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_reports_is_found_by_the_operator_also_after_a_restart() {
    let world = World::start().await;
    let owned = POLICY.replace("name: orders }", "name: orders, annotations: { mesh.isthmus.dev/owner: team-shop } }");
    apply(&mut world.operator().await, &owned).await;
    let mut orders = world.reporter("shop/orders").await;
    let answer = orders.report(report("shop/orders", 1)).await.unwrap().into_inner();
    assert_eq!(answer.next_ms, 10_000);
    // The answer was lost, and it is sent again.
    orders.report(report("shop/orders", 1)).await.unwrap();
    let world = world.restart().await;
    let of = |service: &str| adm::ListFlowsRequest {
        namespace: "shop".into(),
        service: service.into(),
        ..Default::default()
    };
    let (coverage, flows) = list(&world, of("orders")).await;
    let counts: Vec<_> = flows.iter().map(|f| (f.services.clone(), f.flow.as_ref().unwrap().count)).collect();
    assert_eq!(counts, [(vec!["shop/orders".to_owned()], 3), (vec!["shop/orders".to_owned()], 3)]);
    assert!(flows.iter().all(|f| f.flow.as_ref().unwrap().site == "dc1"));
    assert_eq!((coverage.dropped, coverage.oldest_unix_ms, coverage.silent), (5, NOW_MS - 1000, vec![]));
    let (coverage, flows) = list(&world, adm::ListFlowsRequest { since_unix_ms: NOW_MS + 1, ..of("") }).await;
    assert_eq!((flows.len(), coverage.silent), (0, vec!["shop/orders".to_owned(), "shop/web".to_owned()]));
    let id = |id: &str| adm::FindRefusalRequest { id: id.into() };
    let found = world.policy().await.find_refusal(id("0123456789abcdef")).await.unwrap().into_inner();
    assert_eq!((found.workload.as_str(), found.owner.as_str()), ("shop/orders", "team-shop"));
    assert_eq!(world.policy().await.find_refusal(id("ff")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_reports_for_its_own_workload_alone() {
    let world = World::start().await;
    let mut web = world.reporter("shop/web").await;
    let refused = web.report(report("shop/orders", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let nobody = world.empty_store();
    let expected =
        ExpectedPeer::PinnedRoot(world.token("shop/web").await.root, SpiffeId::control_plane(nobody.trust_domain()));
    let channel = connect(nobody.client_config(&[b"h2"], expected), world.control.proxies).await.unwrap();
    let refused = FlowsClient::new(channel).report(report("shop/orders", 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // And an operator's questions are not for proxies.
    let identity = world.join("shop/web").await;
    let asked = match world.connect_as(identity, world.control.operators).await {
        Ok(channel) => PolicyClient::new(channel).list_bypasses(adm::ListBypassesRequest {}).await.map(drop).err(),
        Err(_) => Some(Status::unavailable("refused in the handshake")),
    };
    assert!(asked.is_some());
    let (_, flows) = list(&world, adm::ListFlowsRequest::default()).await;
    assert_eq!(flows, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bypass_is_on_record_pushed_with_its_end_and_ends() {
    let world = World::start().await;
    let mut orders = world.proxy("shop/orders", &[]).await;
    orders.delta().await;
    let mut policy = world.policy().await;
    let bypass = adm::BypassRequest {
        namespace: "shop".into(),
        service: "orders".into(),
        seconds: 1800,
        reason: "pager".into(),
    };
    let opened = policy.bypass(bypass.clone()).await.unwrap().into_inner();
    assert_eq!(opened.until_unix_ms, NOW_MS + 1_800_000);
    let standing = |delta: disc::Delta| {
        let inbound = delta.upserts.into_iter().find_map(|r| match r.body {
            Some(disc::resource::Body::Inbound(inbound)) => Some(inbound),
            _ => None,
        });
        inbound.unwrap().ports[0].standing.map_or(0, |standing| standing.bypass_until_unix_ms)
    };
    assert_eq!(standing(orders.delta().await), NOW_MS + 1_800_000);
    let active = policy.list_bypasses(adm::ListBypassesRequest {}).await.unwrap().into_inner().bypasses;
    assert_eq!((active[0].service.as_str(), active[0].reason.as_str()), ("orders", "pager"));
    let audit = std::fs::read_dir(world.dir.path().join("state/audit")).unwrap();
    let lines: String = audit.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert!(lines.contains("\"bypassed\"") && lines.contains("pager"), "{lines}");
    // By itself.
    world.clock.set_ms(NOW_MS + 1_800_000);
    assert_eq!(standing(orders.delta().await), 0);
    for wrong in [
        adm::BypassRequest { seconds: 90_000, ..bypass.clone() },
        adm::BypassRequest { service: "order".into(), ..bypass },
    ] {
        policy.bypass(wrong).await.unwrap_err();
    }
    let yaml = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Bypass\nmetadata: { namespace: shop, name: x }\nspec: { until: 2030-01-01T00:00:00Z }\n";
    let answer = apply(&mut world.operator().await, yaml).await;
    assert!(answer.problems[0].reason.contains("isthmus bypass"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_to_be_confirmed_is_taken_back_by_a_control_plane_that_was_restarted() {
    let world = World::start().await;
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml: POLICY.into() }];
    let request = adm::ApplyRequest { documents, confirm_seconds: 300, ..Default::default() };
    let applied = world.operator().await.apply(request.clone()).await.unwrap().into_inner();
    assert_eq!(applied.confirm_until_unix_ms, NOW_MS + 300_000);
    let policies =
        |world: &World| world.control.ledger.world().resources.keys().filter(|k| k.kind == "ServicePolicy").count();
    assert_eq!(policies(&world), 1);
    let other = adm::Document { source: "t.yaml".into(), yaml: POLICY.replace("name: orders", "name: other") };
    let blocked = adm::ApplyRequest { documents: vec![other], ..Default::default() };
    let refused = world.operator().await.apply(blocked).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let world = world.restart().await;
    assert_eq!(policies(&world), 1);
    let mut changes = world.control.ledger.watch();
    world.clock.set_ms(NOW_MS + 300_000);
    tokio::time::timeout(SOON, changes.wait_for(|w| !w.resources.keys().any(|k| k.kind == "ServicePolicy")))
        .await
        .unwrap()
        .unwrap();
    // The commit is seen a moment before the record of what awaited confirmation is gone.
    let ledger = &world.control.ledger;
    let gone = async {
        while crate::confirm::pending(&**ledger.store(), ledger.world().revision).unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
    // And the other way.
    let applied = world.operator().await.apply(request).await.unwrap().into_inner();
    let confirmed = world.policy().await.confirm(adm::ConfirmRequest::default()).await.unwrap().into_inner();
    assert_eq!((confirmed.revision, confirmed.present_revision), (applied.revision, applied.revision));
    let again = world.policy().await.confirm(adm::ConfirmRequest::default()).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert_eq!(policies(&world), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_compiled_with_documents_on_top_and_change_nothing() {
    let world = World::start().await;
    let revision = world.control.ledger.world().revision;
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml: POLICY.into() }];
    let request = adm::CompileViewsRequest {
        documents,
        namespace: "shop".into(),
        service: "orders".into(),
        ..Default::default()
    };
    let views = world.policy().await.compile_views(request.clone()).await.unwrap().into_inner();
    assert_eq!(views.problems, []);
    assert_eq!((views.workloads.len(), views.workloads[0].workload.as_str()), (1, "shop/orders"));
    assert_eq!(views.workloads[0].inbound.as_ref().unwrap().ports[0].policy.as_ref().unwrap().allow.len(), 1);
    assert_eq!((views.services.len(), views.policies[0].origin.as_str()), (1, "file:t.yaml"));
    let yaml = POLICY.replace("[orders]", "[order]");
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml }];
    let faulty = adm::CompileViewsRequest { documents, ..request };
    assert_eq!(world.policy().await.compile_views(faulty).await.unwrap().into_inner().problems.len(), 1);
    assert_eq!(world.control.ledger.world().revision, revision);
}

/// What is stored in Audit counts as well: whom it names is let through, and what it asks of transport holds.
#[tokio::test(flavor = "multi_thread")]
async fn views_as_enforced_have_nothing_in_audit_stored_or_proposed() {
    let world = World::start().await;
    let audit = POLICY.replace("spec: {", "spec: { mode: Audit, transport: HttpsOnly,");
    assert_eq!(apply(&mut world.operator().await, &audit).await.problems, []);
    let second = audit.replace("name: orders", "name: second");
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml: second }];
    let request =
        adm::CompileViewsRequest { documents, namespace: "shop".into(), service: "orders".into(), as_enforced: true };
    for (as_enforced, mode) in [(false, disc::RuleMode::Audit), (true, disc::RuleMode::Enforce)] {
        let asked = adm::CompileViewsRequest { as_enforced, ..request.clone() };
        let views = world.policy().await.compile_views(asked).await.unwrap().into_inner();
        assert_eq!(views.problems, []);
        let policy = views.workloads[0].inbound.as_ref().unwrap().ports[0].policy.clone().unwrap();
        let modes: Vec<_> = policy.allow.iter().map(|rule| rule.mode()).collect();
        assert_eq!(modes, [mode, mode]);
        assert_eq!(policy.transport() == disc::Transport::HttpsOnly, as_enforced, "{policy:?}");
        assert_eq!(policy.default_action() == disc::Action::Deny, as_enforced, "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_operator_changes_is_on_record_with_who_and_what() {
    let world = World::start().await;
    let enforcement = |mode: &str| {
        format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Enforcement\nmetadata: {{ namespace: shop, name: orders }}\n\
             spec: {{ services: [orders], mode: {mode} }}\n"
        )
    };
    for mode in ["Observe", "Enforce", "Enforce"] {
        assert_eq!(apply(&mut world.operator().await, &enforcement(mode)).await.problems, []);
    }
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml: POLICY.into() }];
    let request = adm::ApplyRequest { documents, confirm_seconds: 300, ..Default::default() };
    let asked = |dry_run| adm::ApplyRequest { dry_run, ..request.clone() };
    world.operator().await.apply(asked(true)).await.unwrap();
    world.operator().await.apply(asked(false)).await.unwrap();
    world.policy().await.confirm(adm::ConfirmRequest { revision: 0, roll_back: true }).await.unwrap();
    world.operator().await.apply(asked(false)).await.unwrap();
    // Refused while another awaits its confirmation: nothing is on record of what did not happen.
    let documents = vec![adm::Document { source: "t.yaml".into(), yaml: enforcement("Observe") }];
    let other = adm::ApplyRequest { documents, ..Default::default() };
    world.operator().await.apply(other).await.unwrap_err();
    world.policy().await.confirm(adm::ConfirmRequest::default()).await.unwrap();
    let gone = adm::ResourceRef { kind: "ServicePolicy".into(), namespace: "shop".into(), name: "orders".into() };
    let delete = adm::DeleteRequest { resources: vec![gone], ..Default::default() };
    assert_eq!(world.operator().await.delete(delete).await.unwrap().into_inner().problems, []);
    let ours = ["changed", "enforced", "observed", "confirmed", "rolled-back"];
    let text = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let mut said = Vec::new();
    for line in world.audit().await.iter().filter(|line| ours.contains(&line["what"].as_str().unwrap())) {
        assert_eq!(line["operator"], "admin", "{line}");
        said.push([text(line, "what"), text(line, "workload"), text(line, "reason")].join(" ").replace("  ", " "));
    }
    // What the world itself was made with comes first.
    let from = said.iter().position(|line| line.starts_with("observed shop/orders")).unwrap();
    let said: Vec<_> =
        said[from..].iter().map(|line| line.split("revision").next().unwrap().trim().to_owned()).collect();
    assert_eq!(
        said,
        [
            "observed shop/orders",
            "changed",
            "enforced shop/orders was Observe",
            "changed",
            "changed",
            "rolled-back",
            "changed takes back",
            "changed",
            "confirmed",
            "changed",
        ]
    );
    let all = world.audit().await.iter().map(ToString::to_string).collect::<String>();
    assert!(
        all.contains("ServicePolicy shop/orders created") && all.contains("ServicePolicy shop/orders deleted"),
        "{all}"
    );
}
