//! Who the platform is, MeshConfig says; what it may ask, the service's policy: neither opens anything alone.

use super::index_test::{set, trust};
use super::*;
use isthmus_proto::model::{self, Body, InboundPort, Probing};

const MESH: &str = "
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: shop, name: orders, labels: { app: orders } }
spec: { site: dc1, addresses: [10.20.1.10], serviceAccount: orders }
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: orders }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
";

fn ports(mesh: &str, policy: &str) -> Vec<InboundPort> {
    let api = "apiVersion: mesh.isthmus.dev/v1alpha1";
    let documents = format!(
        "{MESH}{api}\nkind: MeshConfig\nmetadata: {{ name: mesh }}\nspec: {{ {mesh} }}\n---\n{api}\nkind: ServicePolicy\n\
         metadata: {{ namespace: shop, name: orders }}\nspec: {{ {policy} }}\n"
    );
    let set = set(&documents);
    let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust() });
    let view = index.view("shop/orders", &BTreeSet::new()).unwrap();
    let inbound = wire::Resource::clone(view.get(&ResourceKey::Inbound).unwrap());
    let (delta, problems) =
        model::Delta::read(wire::Delta { version: 1, upserts: vec![inbound], ..Default::default() });
    assert_eq!(problems, []);
    match delta.upserts.into_iter().next().unwrap().body {
        Ok(Body::Inbound(inbound)) => inbound.ports,
        other => panic!("{other:?}"),
    }
}

/// Port, and what each probe of it may ask from where.
fn told(mesh: &str, policy: &str) -> Vec<(u16, Vec<(String, Probing)>)> {
    let probes = |port: InboundPort| {
        let one = |probe: model::Probe| {
            let from: Vec<_> = probe.cidrs.iter().map(ToString::to_string).collect();
            (from.join(" "), probe.what)
        };
        (port.port, port.probes.into_iter().map(one).collect())
    };
    ports(mesh, policy).into_iter().map(probes).collect()
}

const ASKED: &str = "services: [orders], probes: [{ port: 8080, path: /healthz }, { port: 9000, connect: true }]";

#[test]
fn without_a_word_of_the_mesh_it_is_azures_load_balancers() {
    let azure = || "168.63.129.16/32".to_owned();
    let expected = vec![
        (8080, vec![(azure(), Probing::Path("/healthz".into()))]),
        // No service has it: its policy is that of undeclared ports.
        (9000, vec![(azure(), Probing::Connect)]),
    ];
    assert_eq!(told("", ASKED), expected);
}

#[test]
fn either_half_alone_opens_nothing() {
    assert_eq!(told("probes: { from: [] }", ASKED), [(8080, vec![])]);
    assert_eq!(told("probes: { from: [10.0.0.0/8] }", "services: [orders]"), [(8080, vec![])]);
    assert_eq!(told("", &format!("mode: Audit, {ASKED}")), [(8080, vec![])]);
    let of_others = ASKED.replace("services: [orders]", "workloads: { matchLabels: { app: web } }");
    assert_eq!(told("", &of_others), [(8080, vec![])]);
}

#[test]
fn a_redirect_is_of_the_ports_that_its_policy_selects() {
    let policy = "services: [orders], httpsRedirect: { host: o.example }, probes: [{ port: 9000, connect: true }]";
    let told: Vec<_> = ports("", policy).into_iter().map(|port| (port.port, port.https_redirect)).collect();
    assert_eq!(told, [(8080, Some("o.example".to_owned())), (9000, None)]);
}
