//! Two tenants, over the wire: what a proxy is told before there are tenants (the control arm), and after.

use super::*;
use disc::proxy_message::Message;

pub(super) const HR: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: hr, name: payroll, labels: { app: payroll } }
spec: { site: dc1, addresses: [10.20.2.10], serviceAccount: payroll }
---
apiVersion: v1
kind: Service
metadata: { namespace: hr, name: payroll }
spec: { selector: { app: payroll }, clusterIP: 10.96.9.9, ports: [{ name: http, port: 80, targetPort: 8080 }] }
"#;

pub(super) const TENANTS: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Tenant
metadata: { name: red }
spec: { namespaces: [shop] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Tenant
metadata: { name: blue }
spec: { namespaces: [hr] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: OperatorRole
metadata: { name: red-team }
spec: { role: policy-editor, tenants: [red], operators: [rita] }
"#;

fn told(delta: &disc::Delta) -> String {
    delta
        .upserts
        .iter()
        .filter(|r| !matches!(r.body, Some(disc::resource::Body::Mesh(_))))
        .map(|r| format!("{r:?}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_one_tenant_is_never_told_of_the_other_and_neither_is_its_operator() {
    let world = World::start().await;
    let mut operator = world.operator().await;
    assert_eq!(apply(&mut operator, HR).await.problems, []);
    let theirs = ["hr/payroll", "10.20.2.10", "10.96.9.9"];
    // Without tenants, everybody may ask for everything.
    let mut web = world.proxy("shop/web", &theirs).await;
    let first = web.delta().await;
    assert!(told(&first).contains("payroll") && told(&first).contains("10.20.2.10"), "the control arm");
    web.ack(first.version).await;

    // What it holds is taken back.
    let applied = apply(&mut operator, TENANTS).await;
    assert_eq!(applied.problems, []);
    let delta = web.delta().await;
    let mut removed: Vec<String> = delta.removals.iter().map(|key| key.name.clone()).collect();
    removed.sort();
    assert_eq!(removed, ["10.20.2.10", "10.96.9.9", "hr/payroll"]);
    assert!(!told(&delta).contains("payroll") && !told(&delta).contains("10.20.2.10"), "{delta:?}");
    web.ack(delta.version).await;

    // Whatever it asks for now is absent, which is an answer; its own is there.
    let add = vec![key("hr/payroll"), key("10.20.2.10"), key("shop/orders")];
    let drop = theirs.iter().map(|name| key(name)).collect();
    web.say(Message::Subscribe(disc::Subscribe { add: vec![], drop })).await;
    web.say(Message::Subscribe(disc::Subscribe { add, drop: vec![] })).await;
    let mut seen = String::new();
    while !seen.contains("orders") {
        let answer = web.delta().await;
        seen.push_str(&told(&answer));
        web.ack(answer.version).await;
    }
    assert!(!seen.contains("payroll") && !seen.contains("10.20.2.10"), "{seen}");

    // A new proxy that asks from the start, and the other side.
    let mut orders = world.proxy("shop/orders", &theirs).await;
    assert!(!told(&orders.delta().await).contains("payroll"));
    let mut payroll = world.proxy("hr/payroll", &["shop/orders", "hr/payroll"]).await;
    let first = payroll.delta().await;
    let said = told(&first);
    assert!(said.contains("payroll") && !said.contains("ns/shop/") && !said.contains("shop/orders"), "{said}");

    // An address of the other's is refused to either, and neither is told whose it is, or what is there.
    for (own, other, address) in [("hr", "shop", "10.20.1.10"), ("shop", "hr", "10.20.2.10")] {
        let clash = format!(
            "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: {{ namespace: {own}, name: clash }}\n\
             spec: {{ site: dc1, addresses: [{address}], serviceAccount: clash }}\n"
        );
        let problems = apply(&mut operator, &clash).await.problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].reason.contains("already belongs to another tenant"), "{problems:?}");
        assert_eq!((problems[0].field.as_str(), problems[0].line), ("spec.addresses[0]", 4), "{problems:?}");
        assert!(!format!("{problems:?}").contains(&format!("\"{other}\"")), "{problems:?}");
    }
    // Nor does a slip of the pen bring out their names.
    let slip = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: slip }\n\
                spec: { services: [orders], allow: [{ from: { serviceAccounts: [hr/payrol] } }, { from: { namespaces: [hrr] } }] }\n";
    let said = apply(&mut operator, slip).await;
    assert_eq!((said.problems.len(), said.warnings.len()), (0, 2), "{said:?}");
    assert!(!said.warnings.iter().any(|warning| warning.contains("did you mean")), "{said:?}");

    let mut rita = world.admin_as("rita").await;
    let services = rita.list_services(adm::ListServicesRequest::default()).await.unwrap().into_inner().services;
    assert_eq!(services.iter().map(|s| s.namespace.as_str()).collect::<Vec<_>>(), ["shop"]);
    let proxies = rita.list_proxies(adm::ListProxiesRequest {}).await.unwrap().into_inner().proxies;
    assert!(!proxies.is_empty() && proxies.iter().all(|proxy| proxy.workload.starts_with("shop/")), "{proxies:?}");
    let listed = rita.list(adm::ListRequest::default()).await.unwrap().into_inner();
    let all = format!("{:?}", listed.resources);
    assert!(all.contains("orders") && !all.contains("payroll") && !all.contains("blue"), "{all}");
}
