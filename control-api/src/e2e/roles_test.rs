//! Roles, as operators with different ones meet them.

use super::*;
use crate::authority::issue_here;
use adm::policy_client::PolicyClient;

const TEAMS: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: shop-team }
spec: { role: policy-editor, namespaces: [shop], operators: [bob] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: hr-watchers }
spec: { role: viewer, namespaces: [hr], operators: [eve] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: hr, name: payroll, labels: { app: payroll } }
spec: { site: dc1, addresses: [10.20.2.10], serviceAccount: payroll }
---
apiVersion: v1
kind: Service
metadata: { namespace: hr, name: payroll }
spec: { selector: { app: payroll }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
"#;

impl World {
    /// An operator of this name, by a certificate as `isthmus login` gives one.
    pub(super) async fn channel_of(&self, name: &str) -> Channel {
        let id = SpiffeId::operator(&TrustDomain::parse("shop.example").unwrap(), name).unwrap();
        let identity = issue_here(&self.control.issuer, &id, Duration::from_secs(3600), &self.clock).unwrap();
        self.connect_as(identity, self.control.operators).await.unwrap()
    }

    pub(super) async fn admin_as(&self, name: &str) -> AdminClient<Channel> {
        AdminClient::new(self.channel_of(name).await)
    }
}

fn documents(yaml: &str) -> adm::ApplyRequest {
    let documents = vec![adm::Document { source: "t.yaml".to_string(), yaml: yaml.to_string() }];
    adm::ApplyRequest { documents, ..Default::default() }
}

fn names(response: &adm::ListResponse) -> Vec<String> {
    let name = |r: &adm::StoredResource| r.resource.clone().map(|r| format!("{} {}/{}", r.kind, r.namespace, r.name));
    response.resources.iter().filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_a_role_is_told_which_one_and_whom_to_ask() {
    let world = World::start().await;
    let mut mallory = world.admin_as("mallory").await;
    let refused = mallory.list(adm::ListRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("operator mallory may not call List"), "{refused}");
    assert!(
        refused.message().contains("the role viewer") && refused.message().contains("ask an admin: admin"),
        "{refused}"
    );
    let refused = mallory.create_join_token(adm::CreateJoinTokenRequest::default()).await.unwrap_err();
    assert!(refused.message().contains("the role admin"), "{refused}");
    let mut authority = adm::authority_client::AuthorityClient::new(world.channel_of("mallory").await);
    let refused = authority.rotate(adm::RotateRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_editor_changes_his_namespace_and_sees_no_other() {
    let world = World::start().await;
    let applied = apply(&mut world.operator().await, TEAMS).await;
    assert_eq!(applied.problems, []);
    let mut bob = world.admin_as("bob").await;
    assert_eq!(bob.apply(documents(POLICY)).await.unwrap().into_inner().problems, []);

    let elsewhere = POLICY.replace("shop", "hr");
    let refused = bob.apply(documents(&elsewhere)).await.unwrap_err();
    assert!(refused.message().contains("policy-editor of namespace hr"), "{refused}");
    // One document that he may change and one that he may not: nothing is changed.
    let both = format!("{}---{elsewhere}", POLICY.replace("name: orders }", "name: second }"));
    assert_eq!(bob.apply(documents(&both)).await.unwrap_err().code(), Code::PermissionDenied);
    let listed = bob.list(adm::ListRequest::default()).await.unwrap().into_inner();
    let names = names(&listed);
    assert!(
        names.contains(&"ServicePolicy shop/orders".to_string()) && names.contains(&"Site /dc1".to_string()),
        "{names:?}"
    );
    assert!(
        !names.iter().any(|name| name.contains("hr/") || name.contains("second") || name.contains("OperatorRole")),
        "{names:?}"
    );

    for kind in ["Workload", "OperatorRole", "MeshConfig", "Site"] {
        let namespace = if kind == "Workload" { "shop" } else { "" };
        let one =
            adm::ResourceRef { kind: kind.to_string(), namespace: namespace.to_string(), name: "web".to_string() };
        let refused = bob.delete(adm::DeleteRequest { resources: vec![one], dry_run: false }).await.unwrap_err();
        assert!(refused.message().contains("the role admin"), "{kind}: {refused}");
    }
    let hr = adm::ResourceRef { kind: "Service".to_string(), namespace: "hr".to_string(), name: "payroll".to_string() };
    let refused = bob.get(adm::GetRequest { resource: Some(hr), status: false }).await.unwrap_err();
    assert!(refused.message().contains("viewer of namespace hr"), "{refused}");
    let services = bob.list_services(adm::ListServicesRequest::default()).await.unwrap().into_inner().services;
    assert_eq!(services.iter().map(|s| s.namespace.as_str()).collect::<Vec<_>>(), ["shop"]);
    let everything = world.operator().await.list_services(adm::ListServicesRequest::default()).await.unwrap();
    assert_eq!(everything.into_inner().services.len(), 2, "the admin sees both");
    let request = adm::ListServicesRequest { namespace: "hr".to_string(), name: "payroll".to_string() };
    assert_eq!(bob.list_services(request).await.unwrap_err().code(), Code::NotFound);

    let bypass = |namespace: &str| adm::BypassRequest {
        namespace: namespace.to_string(),
        seconds: 60,
        reason: "test".to_string(),
        ..Default::default()
    };
    let mut policy = PolicyClient::new(world.channel_of("bob").await);
    assert_eq!(policy.bypass(bypass("hr")).await.unwrap_err().code(), Code::PermissionDenied);
    policy.bypass(bypass("shop")).await.unwrap();
    let views = policy.compile_views(adm::CompileViewsRequest::default()).await.unwrap().into_inner();
    assert!(views.workloads.iter().all(|view| view.workload.starts_with("shop/")) && !views.workloads.is_empty());
    assert!(views.services.iter().all(|service| service.namespace == "shop") && !views.services.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_changes_nothing_and_loses_an_open_watch_with_his_role() {
    let world = World::start().await;
    let mut admin = world.operator().await;
    assert_eq!(apply(&mut admin, TEAMS).await.problems, []);
    let mut eve = world.admin_as("eve").await;
    let refused = eve.apply(documents(&POLICY.replace("shop", "hr"))).await.unwrap_err();
    assert!(refused.message().contains("policy-editor of namespace hr"), "{refused}");

    let mut watch = eve.watch(adm::WatchRequest::default()).await.unwrap().into_inner();
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(SOON, watch.message()).await.unwrap().unwrap().unwrap();
        if event.synced {
            break;
        }
        seen.push(event.resource.unwrap().resource.unwrap());
    }
    assert!(seen.iter().any(|r| r.namespace == "hr") && !seen.iter().any(|r| r.namespace == "shop"), "{seen:?}");
    let role =
        adm::ResourceRef { kind: "OperatorRole".to_string(), name: "hr-watchers".to_string(), ..Default::default() };
    let gone = admin.delete(adm::DeleteRequest { resources: vec![role], dry_run: false }).await.unwrap().into_inner();
    assert_eq!(gone.problems, []);
    let ended = tokio::time::timeout(SOON, watch.message()).await.unwrap().unwrap_err();
    assert!(ended.message().contains("no role any more"), "{ended}");
    assert_eq!(eve.list(adm::ListRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_ends_with_its_certificate() {
    let world = World::start().await;
    assert_eq!(apply(&mut world.operator().await, TEAMS).await.problems, []);
    let mut bob = world.admin_as("bob").await;
    bob.list(adm::ListRequest::default()).await.unwrap();
    world.clock.advance(Duration::from_secs(3700));
    let ended = bob.list(adm::ListRequest::default()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(ended.message().contains("has ended: `isthmus login`"), "{ended}");
}
