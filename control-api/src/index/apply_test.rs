//! Whatever happens to a mesh, step by step: the next index is the one that would be built anew, what is called changed
//! is what differs, and checking what was touched finds what checking everything finds.

use super::index_test::trust;
use super::*;
use crate::validate::{Parsed, parse};
use proptest::prelude::*;
use std::collections::BTreeMap;

const OURS: &str = "apiVersion: mesh.isthmus.dev/v1alpha1";

#[derive(Clone, Debug)]
enum Step {
    Put(String),
    Delete(&'static str, &'static str, String),
}

/// A few names each, so that steps meet each other.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = prop_oneof![
        4 => workload(),
        4 => service(),
        3 => written(),
        3 => service_policy(),
        2 => traffic_policy(),
        1 => egress_policy(),
        2 => standing(),
        1 => site(),
        1 => mesh(),
    ]
    .prop_map(Step::Put);
    let kind = prop_oneof![
        Just(("Workload", "w")),
        Just(("Service", "s")),
        Just(("Endpoints", "s")),
        Just(("EndpointSlice", "e")),
        Just(("ServicePolicy", "p")),
        Just(("TrafficPolicy", "t")),
        Just(("EgressPolicy", "g")),
        Just(("Enforcement", "n")),
        Just(("Bypass", "n")),
        Just(("Site", "site")),
        Just(("MeshConfig", "mesh")),
    ];
    let delete = (kind, namespace(), 0..3u8).prop_map(|((kind, stem), namespace, n)| match kind {
        "Site" => Step::Delete(kind, "", format!("{stem}{n}")),
        "MeshConfig" => Step::Delete(kind, "", stem.to_string()),
        _ => Step::Delete(kind, namespace, format!("{stem}{n}")),
    });
    proptest::collection::vec(prop_oneof![3 => put, 1 => delete], 1..24)
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("a"), 1 => Just("b")]
}

fn labels() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("app: x"), Just("app: y"), Just("app: x, env: p"), Just("env: p"), Just("env: q, app: y")]
}

fn address() -> impl Strategy<Value = String> {
    (0..2u8, 0..6u8).prop_map(|(site, n)| format!("10.2{site}.0.{n}"))
}

fn workload() -> impl Strategy<Value = String> {
    (namespace(), 0..3u8, labels(), proptest::collection::btree_set(0..6u8, 1..3), 0..2u8, 0..2u8).prop_map(
        |(namespace, n, labels, hosts, site, account)| {
            let addresses: Vec<String> = hosts.iter().map(|host| format!("10.2{site}.0.{host}")).collect();
            let addresses = addresses.join(", ");
            format!("{OURS}\nkind: Workload\nmetadata: {{ namespace: {namespace}, name: w{n}, labels: {{ {labels} }} }}\nspec: {{ site: site{site}, addresses: [{addresses}], serviceAccount: sa{account} }}\n")
        },
    )
}

fn service() -> impl Strategy<Value = String> {
    let selector = proptest::option::weighted(0.7, labels());
    let vip = prop_oneof![3 => Just(String::new()), 1 => Just("clusterIP: None, ".into()), 2 => (1..5u8).prop_map(|n| format!("clusterIP: 10.96.0.{n}, "))];
    let port = prop_oneof![
        Just("{ name: http, port: 80, targetPort: 8080 }"),
        Just("{ name: pg, port: 5432 }"),
        Just("{ name: http, port: 80 }, { name: pg, port: 5432 }")
    ];
    (namespace(), 0..3u8, selector, vip, port).prop_map(|(namespace, n, selector, vip, port)| {
        let selector = selector.map(|labels| format!("selector: {{ {labels} }}, ")).unwrap_or_default();
        format!("apiVersion: v1\nkind: Service\nmetadata: {{ namespace: {namespace}, name: s{n} }}\nspec: {{ {selector}{vip}ports: [{port}] }}\n")
    })
}

fn written() -> impl Strategy<Value = String> {
    let addresses = proptest::collection::btree_set(address(), 1..4);
    (namespace(), 0..3u8, addresses, any::<bool>()).prop_map(|(namespace, n, addresses, slice)| {
        if slice {
            let list: Vec<String> = addresses.iter().map(|ip| format!("{{ addresses: [{ip}] }}")).collect();
            return format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ namespace: {namespace}, name: e{n}, labels: {{ kubernetes.io/service-name: s{n} }} }}\naddressType: IPv4\nendpoints: [{}]\nports: [{{ name: http, port: 8081 }}]\n", list.join(", "));
        }
        let list: Vec<String> = addresses.iter().map(|ip| format!("{{ ip: {ip} }}")).collect();
        format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{ namespace: {namespace}, name: s{n} }}\nsubsets: [{{ addresses: [{}], ports: [{{ name: pg, port: 15432 }}] }}]\n", list.join(", "))
    })
}

fn service_policy() -> impl Strategy<Value = String> {
    let scope = prop_oneof![
        Just(""),
        Just("services: [s0], "),
        Just("services: [s1, s2], "),
        Just("workloads: { matchLabels: { app: x } }, "),
        Just("services: [s0], workloads: { matchLabels: { env: p } }, "),
    ];
    let what = prop_oneof![
        Just("transport: Permissive"),
        Just("transport: HttpsOnly, minTlsVersion: '1.3'"),
        Just("allow: [{ from: { sites: [site1] } }]"),
        Just("deny: [{}], mode: Audit"),
        Just("allow: [{ from: { serviceAccounts: [sa0] } }]"),
    ];
    (namespace(), 0..3u8, scope, what).prop_map(|(namespace, n, scope, what)| {
        format!("{OURS}\nkind: ServicePolicy\nmetadata: {{ namespace: {namespace}, name: p{n} }}\nspec: {{ {scope}{what} }}\n")
    })
}

fn traffic_policy() -> impl Strategy<Value = String> {
    let scope = prop_oneof![Just(""), Just("services: [s0], "), Just("services: [s1, s2], ")];
    let what =
        prop_oneof![Just("connect: confirm"), Just("proxyProtocol: v2"), Just("headerNames: Preserve, connect: early")];
    (namespace(), 0..3u8, scope, what).prop_map(|(namespace, n, scope, what)| {
        format!("{OURS}\nkind: TrafficPolicy\nmetadata: {{ namespace: {namespace}, name: t{n} }}\nspec: {{ {scope}{what} }}\n")
    })
}

fn egress_policy() -> impl Strategy<Value = String> {
    let scope = prop_oneof![Just(""), Just("workloads: { matchLabels: { app: x } }, ")];
    let what = prop_oneof![Just("allow: [{ hosts: [a.example] }]"), Just("default: Deny")];
    (namespace(), 0..2u8, scope, what).prop_map(|(namespace, n, scope, what)| {
        format!("{OURS}\nkind: EgressPolicy\nmetadata: {{ namespace: {namespace}, name: g{n} }}\nspec: {{ {scope}{what} }}\n")
    })
}

fn standing() -> impl Strategy<Value = String> {
    let scope = prop_oneof![Just(""), Just("services: [s0], "), Just("services: [s1, s2], ")];
    let what = prop_oneof![
        Just(("Enforcement", "mode: Enforce")),
        Just(("Enforcement", "mode: Observe")),
        Just(("Bypass", "until: 2027-01-15T08:00:00Z")),
    ];
    (namespace(), 0..2u8, scope, what).prop_map(|(namespace, n, scope, (kind, what))| {
        format!("{OURS}\nkind: {kind}\nmetadata: {{ namespace: {namespace}, name: n{n} }}\nspec: {{ {scope}{what} }}\n")
    })
}

fn site() -> impl Strategy<Value = String> {
    (0..3u8, 16..18u8).prop_map(|(n, bits)| {
        format!("{OURS}\nkind: Site\nmetadata: {{ name: site{n} }}\nspec: {{ ranges: [10.2{n}.0.0/{bits}] }}\n")
    })
}

fn mesh() -> impl Strategy<Value = String> {
    let spec = prop_oneof![
        Just("vipRanges: [10.96.0.0/24]"),
        Just("vipRanges: [10.96.0.0/28, 'fd00::/112'], defaults: { transport: HttpsOnly }"),
        Just("vipRanges: [10.96.0.0/24], dnsSuffixes: [corp.example]"),
        Just("vipRanges: [10.96.0.0/24], floor: { transport: HttpsOnly }"),
    ];
    spec.prop_map(|spec| format!("{OURS}\nkind: MeshConfig\nmetadata: {{ name: mesh }}\nspec: {{ {spec} }}\n"))
}

struct Mesh {
    set: Set,
    vips: Vips,
    index: Index,
}

/// One proposal of several steps, if it would be taken. Checks everything there is to check on the way.
fn propose(mesh: &mut Mesh, steps: &[Step]) {
    let trust = trust();
    let mut set = mesh.set.clone();
    let mut keys = BTreeSet::new();
    for step in steps {
        match step {
            Step::Put(yaml) => {
                let (mut parsed, problems) = parse("f", yaml);
                assert_eq!(problems, [], "{yaml}");
                let Parsed { resource, .. } = parsed.remove(0);
                keys.insert(resource.key.clone());
                set.insert(Arc::new(resource));
            }
            Step::Delete(kind, namespace, name) => {
                let key = ResourceRef::new(kind, namespace, name);
                if set.remove(&key).is_some() {
                    keys.insert(key);
                }
            }
        }
    }
    let keys: Vec<ResourceRef> = keys.into_iter().collect();
    let mut again: Set = set.values().cloned().collect();
    set.keys().filter(|key| set.is_away(key)).for_each(|key| again.presence(key, true));
    let faults = |found: cross::Findings| {
        let mut faults: Vec<String> = found.faults.iter().map(|fault| format!("{fault:?}")).collect();
        faults.sort();
        faults
    };
    let all = faults(cross::check(&again, &trust.trust_domain));
    assert_eq!(faults(cross::check_changed(&set, &keys, &trust.trust_domain)), all, "after {keys:?}");
    if !all.is_empty() {
        return;
    }
    let ranges = cross::mesh_config(&set).vip_ranges;
    let allocation = allocate(&set, &ranges, &mesh.vips, &keys);
    let mut vips = mesh.vips.clone();
    vips.settle(&allocation);
    check_vips(&set, &vips);
    let difference =
        Difference { before: &mesh.set, keys: &keys, vips: &mesh.vips, given: &allocation.given, trust: false };
    let (index, changed) = mesh.index.apply(Wanted { set: &set, vips: &vips, trust: &trust }, difference);
    let anew = Index::build(Wanted { set: &again, vips: &vips, trust: &trust });
    assert!(index == anew, "after {keys:?}: {:#?}", differences(&anew, &index));
    assert_eq!(changed, differences(&mesh.index, &index), "after {keys:?}");
    let (set, index) = presence(set, &vips, index);
    *mesh = Mesh { set, vips, index };
}

/// Somebody is away, or back, at every step.
fn presence(set: Set, vips: &Vips, index: Index) -> (Set, Index) {
    let trust = trust();
    let Some(key) = set.of_kind("Workload", None).last().map(|workload| workload.key.clone()) else {
        return (set, index);
    };
    let mut next = set.clone();
    next.presence(&key, !set.is_away(&key));
    let keys = [key];
    let difference = Difference { before: &set, keys: &keys, vips, given: &Given::new(), trust: false };
    let (after, changed) = index.apply(Wanted { set: &next, vips, trust: &trust }, difference);
    assert!(after == Index::build(Wanted { set: &next, vips, trust: &trust }));
    assert_eq!(changed, differences(&index, &after));
    (next, after)
}

fn check_vips(set: &Set, vips: &Vips) {
    for ip in vips.addresses() {
        assert_eq!(set.claimants(*ip).count(), 0, "{ip} is asked for by number");
        assert!(set.contains_key(vips.owner(*ip).unwrap()));
    }
}

fn differences(old: &Index, new: &Index) -> Changed {
    fn differing<K: Clone + Eq + std::hash::Hash + Ord, V: PartialEq>(
        old: &HashTrieMapSync<K, V>,
        new: &HashTrieMapSync<K, V>,
    ) -> BTreeSet<K> {
        let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
        keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
    }
    let services = differing(&old.services, &new.services).into_iter().map(ResourceKey::Service);
    let addresses = differing(&old.addresses, &new.addresses).into_iter().map(ResourceKey::Address);
    Changed {
        mesh: old.mesh != new.mesh,
        inbound: differing(&old.workloads, &new.workloads),
        keys: services.chain(addresses).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn step_by_step_is_the_same_as_anew(proposals in proptest::collection::vec(steps(), 1..6)) {
        let mut mesh = Mesh { set: Set::default(), vips: Vips::default(), index: Index::default() };
        let base: Vec<Step> = [0, 1].map(|n| Step::Put(format!("{OURS}\nkind: Site\nmetadata: {{ name: site{n} }}\nspec: {{ ranges: [10.2{n}.0.0/16] }}\n"))).into();
        propose(&mut mesh, &base);
        let config = format!("{OURS}\nkind: MeshConfig\nmetadata: {{ name: mesh }}\nspec: {{ vipRanges: [10.96.0.0/24] }}\n");
        propose(&mut mesh, &[Step::Put(config)]);
        for steps in proposals {
            // Together, and what is refused together one by one.
            propose(&mut mesh, &steps);
            for step in &steps {
                propose(&mut mesh, std::slice::from_ref(step));
            }
        }
    }
}

#[test]
fn the_sequences_are_not_refused_throughout() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut mesh = Mesh { set: Set::default(), vips: Vips::default(), index: Index::default() };
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..40 {
        for step in steps().new_tree(&mut runner).unwrap().current() {
            propose(&mut mesh, std::slice::from_ref(&step));
        }
        mesh.set.keys().for_each(|key| *kinds.entry(key.kind.clone()).or_default() += 1);
    }
    assert_eq!(kinds.len(), 11, "every kind was stored at some time: {kinds:?}");
}
