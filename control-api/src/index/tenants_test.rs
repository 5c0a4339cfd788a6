use super::super::index_test::{set, trust};
use super::super::*;
use super::*;
use proptest::prelude::*;

/// Namespaces `n0`…, each with a workload, a service of it, and a service whose endpoints are written by hand: all
/// workloads' addresses, and one that is nobody's.
fn namespaces(count: usize) -> String {
    let mut text = String::from(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: mesh }\nspec: { enforcement: Enforce, vipRanges: [10.96.0.0/16] }\n\
         ---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: dc1 }\nspec: { ranges: [10.20.0.0/16] }\n",
    );
    let all: Vec<String> = (0..count).map(|n| format!("{{ ip: 10.20.1.{n} }}")).collect();
    for n in 0..count {
        text.push_str(&format!(
            "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\nmetadata: {{ namespace: n{n}, name: app, labels: {{ app: a }} }}\n\
             spec: {{ site: dc1, addresses: [10.20.1.{n}], serviceAccount: app }}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{ namespace: n{n}, name: app }}\n\
             spec: {{ selector: {{ app: a }}, clusterIP: 10.96.0.{n}, ports: [{{ port: 80, targetPort: 8080 }}] }}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{ namespace: n{n}, name: written }}\n\
             spec: {{ clusterIP: 10.96.1.{n}, ports: [{{ port: 80 }}] }}\n\
             ---\napiVersion: v1\nkind: Endpoints\nmetadata: {{ namespace: n{n}, name: written }}\n\
             subsets: [{{ addresses: [{}, {{ ip: 10.20.9.{n} }}], ports: [{{ port: 80 }}] }}]\n",
            all.join(", ")
        ));
    }
    text
}

fn tenant(name: &str, namespaces: &[String], shared: bool) -> String {
    format!(
        "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: Tenant\nmetadata: {{ name: {name} }}\n\
         spec: {{ namespaces: [{}], shared: {shared} }}\n",
        namespaces.join(", ")
    )
}

fn index(yaml: &str) -> Index {
    Index::build(Wanted { set: &set(yaml), vips: &Vips::default(), trust: &trust() })
}

/// Whatever a proxy of namespace `n<from>` could ask for.
fn everything(count: usize) -> BTreeSet<ResourceKey> {
    let mut keys = BTreeSet::new();
    for n in 0..count {
        for name in ["app", "written"] {
            keys.insert(ResourceKey::Service(ServiceName::new(&format!("n{n}"), name).unwrap()));
        }
        for ip in [format!("10.20.1.{n}"), format!("10.96.0.{n}"), format!("10.96.1.{n}"), format!("10.20.9.{n}")] {
            keys.insert(ResourceKey::Address(ip.parse().unwrap()));
        }
    }
    keys
}

/// The namespaces whose services, endpoints or workloads are in a view, by whatever text names them.
fn told(view: &View) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for resource in view.iter().filter_map(|(_, told)| told) {
        if matches!(resource.body, Some(wire::resource::Body::Mesh(_) | wire::resource::Body::Inbound(_))) {
            continue;
        }
        let text = format!("{resource:?}");
        for n in 0..10 {
            let names = [
                format!("\"n{n}/"),
                format!("namespace: \"n{n}\""),
                format!("/ns/n{n}/"),
                format!("\"10.20.1.{n}\""),
                format!("\"10.20.9.{n}\""),
            ];
            if names.iter().any(|name| text.contains(name.as_str())) {
                found.insert(format!("n{n}"));
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A proxy is told of its own tenant's and of shared namespaces alone, whatever it asks for; and without tenants (the
    /// control arm) of all.
    #[test]
    fn a_proxy_is_told_of_its_own_tenant_and_of_shared_ones_alone(
        tenants in proptest::collection::vec(0..4usize, 5), shared in any::<[bool; 4]>(), from in 0..5usize,
    ) {
        let mesh = namespaces(5);
        let mut text = mesh.clone();
        // Number 0 is no tenant.
        for (t, shared) in shared.iter().enumerate().skip(1) {
            let mine: Vec<String> = (0..5).filter(|n| tenants[*n] == t).map(|n| format!("n{n}")).collect();
            if !mine.is_empty() {
                text.push_str(&tenant(&format!("t{t}"), &mine, *shared));
            }
        }
        let is_shared = |t: usize| t > 0 && shared[t];
        let seen: BTreeSet<String> =
            (0..5).filter(|n| tenants[*n] == tenants[from] || is_shared(tenants[*n])).map(|n| format!("n{n}")).collect();
        let workload = format!("n{from}/app");
        let view = index(&text).view(&workload, &everything(5)).unwrap();
        // A shared service's hand-written endpoints may be those of the tenant it is asked from only by their own sight.
        let told_now = told(&view);
        prop_assert!(told_now.is_subset(&seen), "told {:?}, may see {:?}", told_now, seen);
        for n in &seen {
            prop_assert!(told_now.contains(n), "{n} is missing");
        }
        let before = index(&mesh).view(&workload, &everything(5)).unwrap();
        prop_assert_eq!(told(&before).len(), 5, "without tenants everybody sees all");
    }
}

#[test]
fn a_tenant_that_comes_takes_away_what_proxies_hold_and_its_end_gives_it_back() {
    let mesh = namespaces(2);
    let (one, two) = (set(&mesh), set(&format!("{mesh}{}", tenant("red", &["n0".to_string()], false))));
    let before = Index::build(Wanted { set: &one, vips: &Vips::default(), trust: &trust() });
    let keys = [ResourceRef::new("Tenant", "", "red")];
    let (vips, given) = (Vips::default(), Given::default());
    let difference = |before| Difference { before, keys: &keys, vips: &vips, given: &given, trust: false };
    let (after, changed) = before.apply(Wanted { set: &two, vips: &vips, trust: &trust() }, difference(&one));
    assert!(changed.concerns("n1/app", &View::default()), "everybody looks again");
    assert_eq!(after, Index::build(Wanted { set: &two, vips: &Vips::default(), trust: &trust() }));
    let asked = everything(2);
    let (old, new) = (before.view("n1/app", &asked).unwrap(), after.view("n1/app", &asked).unwrap());
    let (_, removed) = diff(&old, &new);
    let service = ResourceKey::Service(ServiceName::new("n0", "app").unwrap());
    assert!(removed.contains(&service) && removed.contains(&ResourceKey::Address("10.20.1.0".parse().unwrap())));
    let (back, changed) = after.apply(Wanted { set: &one, vips: &vips, trust: &trust() }, difference(&two));
    assert!(changed.concerns("n1/app", &View::default()) && back == before);
}

#[test]
fn a_port_of_a_tenant_refuses_callers_of_others_first() {
    let text = format!("{}{}", namespaces(2), tenant("red", &["n0".to_string()], false));
    let index = index(&text);
    let deny = |workload: &str| index.inbound_of(workload).unwrap().ports[0].policy.clone().unwrap().deny;
    let rule = deny("n0/app")[0].clone();
    assert_eq!((rule.policy.as_str(), rule.not_namespaces.unwrap().any_of), ("tenant/red", vec!["n0".to_string()]));
    assert_eq!(deny("n1/app"), []);
    let default = index.inbound_of("n0/app").unwrap().default_policy.clone().unwrap();
    assert_eq!(default.deny.len(), 1, "also at ports that no service declares");
    let open = format!("{}{}", namespaces(2), tenant("red", &["n0".to_string()], false))
        .replace("shared: false", "plainCallers: Allow");
    let open = Index::build(Wanted { set: &set(&open), vips: &Vips::default(), trust: &trust() });
    assert_eq!(open.inbound_of("n0/app").unwrap().ports[0].policy.clone().unwrap().deny, []);
}

#[test]
fn a_namespace_is_in_one_tenant_and_a_role_names_tenants_that_are_there() {
    let two =
        format!("{}{}{}", namespaces(1), tenant("blue", &["n0".into()], false), tenant("red", &["n0".into()], false));
    let faults = cross::check(&set(&two), &trust().trust_domain).faults;
    assert_eq!(faults.len(), 1);
    assert!(faults[0].key.name == "red" && faults[0].reason.contains("belongs to Tenant blue"), "{faults:?}");
    let role = "---\napiVersion: mesh.isthmus.dev/v1alpha1\nkind: OperatorRole\nmetadata: { name: r }\nspec: { role: viewer, tenants: [gone], operators: [eve] }\n";
    let faults = cross::check(&set(&format!("{}{role}", namespaces(1))), &trust().trust_domain).faults;
    assert!(faults[0].reason.contains("no Tenant `gone`"), "{faults:?}");
}
