//! A site behind NAT: the callee sees another address than the caller's own. Rules on addresses and sites mean what is
//! registered, once the Site says what it is seen as. A real NAT, in the cloud's router.

use std::time::Duration;

use isthmus_world::mesh::{Mesh, ORDERS_URL};
use isthmus_world::{Command, find};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] =
    &[("rules_on_addresses_and_sites_mean_what_is_registered_of_a_caller_behind_nat", behind_nat)];

const DEADLINE: Duration = Duration::from_secs(20);
/// What the data centre sees of the cloud, in each family: in none of its ranges.
const SEEN: [&str; 2] = ["198.51.100.7", "fd00:99::7"];

pub(crate) fn can_run() -> bool {
    find::or_skip(&["nft", "ip"], "a site behind NAT").is_some()
}

fn run(host: &isthmus_world::Host, program: &str, arguments: &[&str]) -> Result<(), String> {
    let done = host.output(Command::new(program).args(arguments), DEADLINE).map_err(|e| e.to_string())?;
    require(done.status.success(), || format!("{program} {}: {}", arguments.join(" "), done.stderr))
}

/// Every connection that leaves the cloud by its router from now on bears the router's address. Those that are open
/// already go on as they are.
fn translate(mesh: &Mesh) -> Result<(), String> {
    let [cloud, on_prem] = mesh.world().sites();
    let families = [
        ("ip", "10.10.0.0/16", "10.20.0.0/16", "192.168.255.1"),
        ("ip6", "fd00:10::/64", "fd00:20::/64", "fd00:ffff::1"),
    ];
    for ((family, from, to, router), seen) in families.into_iter().zip(SEEN) {
        let rules = format!(
            "add table {family} world_nat; add chain {family} world_nat out {{ type nat hook postrouting priority 100; }}; \
             add rule {family} world_nat out {family} saddr {from} {family} daddr {to} \
             tcp flags & (fin|syn|rst|ack) == syn counter snat to {seen}"
        );
        run(cloud.router(), "nft", &[&rules])?;
        run(on_prem.router(), "ip", &["route", "add", seen, "via", router])?;
    }
    Ok(())
}

fn site(seen_as: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: {{ name: azure-eastus }}\n\
         spec: {{ ranges: [10.10.0.0/16, \"fd00:10::/64\"]{seen_as} }}\n---\n"
    )
}

fn policy(rule: &str) -> String {
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{ namespace: shop, name: orders }}\n\
         spec: {{ services: [orders], transport: MeshOnly, {rule} }}\n"
    )
}

/// Web and batch are in the cloud, orders is not.
fn behind_nat(mesh: &mut Mesh) -> Result<(), String> {
    translate(mesh)?;
    for workload in ["web", "batch"] {
        mesh.restart_sidecar(workload)?;
    }
    let seen_as = format!(", seenAs: [{}/32, \"{}/128\"]", SEEN[0], SEEN[1]);
    let by_address = "allow: [{ from: { cidrs: [10.10.1.10/32, \"fd00:10::1:10/128\"] } }]";
    let by_site = "allow: [{ from: { sites: [azure-eastus] } }]";
    let denied = "allow: [{ from: { serviceAccounts: [web, batch] } }], \
                  deny: [{ from: { cidrs: [10.10.1.11/32, \"fd00:10::1:11/128\"] } }]";
    // What holds for web and for batch, and the control arm: what the address that is seen says by itself.
    for (seen_as, rule, web, batch) in [
        ("", by_address, 403, 403),
        (seen_as.as_str(), by_address, 200, 403),
        ("", by_site, 403, 403),
        (seen_as.as_str(), by_site, 200, 200),
        ("", denied, 200, 200),
        (seen_as.as_str(), denied, 200, 403),
    ] {
        mesh.apply(&format!("{}{}", site(seen_as), policy(rule)))?;
        for (from, expected) in [("web", web), ("batch", batch)] {
            let got = mesh.get(from, ORDERS_URL)?;
            require(got.status == expected, || format!("{from} under {rule}{seen_as}: {got:?} {}", rules(mesh)))?;
        }
    }
    // The callee did see the NAT.
    let got = mesh.get("batch", ORDERS_URL)?;
    let id = got.header("isthmus-decision").unwrap_or_default().to_owned();
    let told = mesh.decision("orders", &id)?.to_string();
    require(SEEN.iter().any(|seen| told.contains(seen)), || format!("{told} {}", rules(mesh)))
}

fn rules(mesh: &Mesh) -> String {
    let [cloud, _] = mesh.world().sites();
    let listed = cloud.router().output(Command::new("nft").args(["list", "ruleset"]), DEADLINE);
    listed.map_or_else(|e| e.to_string(), |done| done.stdout)
}
