//! Two meshes, each with a control plane and roots of its own, and traffic between their sidecars.

use std::time::{Duration, Instant};

use isthmus_world::mesh::{Mesh, ORDERS_URL, OtherMesh, VAULT_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("two_meshes_serve_each_other_by_rule_while_each_believes_the_other_and_no_longer", believed),
    ("the_other_mesh_replaces_its_root_under_load_and_nobody_notices", their_root),
];

const SOON: Duration = Duration::from_secs(30);
const MINUTES: Duration = Duration::from_secs(120);

/// The other mesh. Its one rule names an identity of ours.
const BANK: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec:
  trustDomain: bank.example
  enforcement: Enforce
  certificates: { leafLifetime: 24h }
  vipRanges: [10.97.0.0/16]
  dnsSuffixes: [svc.cluster.local]
  defaults: { transport: MeshOnly, action: Deny }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.20.0.0/16] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: bank, name: vault, labels: { app: vault } }
spec: { site: dc1, addresses: [10.20.1.30], serviceAccount: vault }
---
apiVersion: v1
kind: Service
metadata: { namespace: bank, name: vault }
spec:
  clusterIPs: [10.97.0.20]
  selector: { app: vault }
  ports: [{ name: http, port: 80, targetPort: 8080, appProtocol: http }]
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: bank, name: vault }
spec:
  services: [vault]
  transport: MeshOnly
  allow:
    - from: { identities: ["spiffe://shop.example/ns/shop/sa/web"] }
"#;

/// The other mesh's workload, as ours knows it.
const VAULT: &str = r#"
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: { namespace: bank, name: vault, labels: { app: vault } }
spec: { site: dc1, addresses: [10.20.1.30], serviceAccount: vault, trustDomain: bank.example }
---
apiVersion: v1
kind: Service
metadata: { namespace: bank, name: vault }
spec:
  clusterIPs: [10.96.0.20]
  selector: { app: vault }
  ports: [{ name: http, port: 80, targetPort: 8080, appProtocol: http }]
"#;

const REFUSED: &str = "isthmus_mesh_handshakes_failed_total";

fn believed(mesh: &mut Mesh) -> Result<(), String> {
    let bank = OtherMesh::start(mesh, BANK)?;
    mesh.apply(&bank.isthmus(&["ca", "bundle"], "")?)?;
    mesh.apply(VAULT)?;
    // We believe them, they do not believe us yet: their sidecar refuses the handshake, and nothing reaches the app.
    let early = mesh.get("web", VAULT_URL)?;
    require(early.status != 200, || format!("before they believe us: {} {}", early.status, early.body))?;
    let counted = bank.metric(REFUSED, &[("reason", "wrong-trust-domain")])?;
    require(counted > 0.0, || format!("no handshake refused for its trust domain: {:?}", bank.sidecar().log()))?;
    bank.isthmus(&["apply", "-f", "-", "--wait"], &mesh.isthmus(&["ca", "bundle"])?)?;
    mesh.until(SOON, "web is served", |mesh| Ok((mesh.get("web", VAULT_URL)?.status == 200).then_some(())))?;
    // Who called is known there by its own trust domain, and only whom the rule names comes in.
    let answer = mesh.get("web", VAULT_URL)?;
    let named = "By=spiffe://bank.example/ns/bank/sa/vault;URI=spiffe://shop.example/ns/shop/sa/web";
    require(answer.body.contains(named), || format!("the app was not told who called: {}", answer.body))?;
    let batch = mesh.get("batch", VAULT_URL)?;
    require(batch.status == 403, || format!("batch: {} {}", batch.status, batch.body))?;
    // A bundle speaks for its own names alone, also in our own mesh: nothing changed there.
    let own = mesh.get("web", ORDERS_URL)?;
    require(own.status == 200, || format!("our own mesh: {} {}", own.status, own.body))?;
    // They stop believing us: what is open ends, and nobody comes in any more.
    let ended = |bank: &OtherMesh| bank.metric("isthmus_mesh_events_total", &[("event", "peer-revoked")]);
    let before = ended(&bank)?;
    bank.isthmus(&["delete", "trustdomain", "shop-example"], "")?;
    mesh.until(SOON, "open connections end", |_| Ok((ended(&bank)? > before).then_some(())))?;
    mesh.until(SOON, "web is refused", |mesh| Ok((mesh.get("web", VAULT_URL)?.status != 200).then_some(())))
}

fn their_root(mesh: &mut Mesh) -> Result<(), String> {
    let bank = OtherMesh::start(mesh, BANK)?;
    let hand_over = |mesh: &Mesh| mesh.apply(&bank.isthmus(&["ca", "bundle"], "")?);
    hand_over(mesh)?;
    mesh.apply(VAULT)?;
    bank.isthmus(&["apply", "-f", "-", "--wait"], &mesh.isthmus(&["ca", "bundle"])?)?;
    mesh.until(SOON, "web is served", |mesh| Ok((mesh.get("web", VAULT_URL)?.status == 200).then_some(())))?;
    let load = mesh.load_on(VAULT_URL);
    let began = Instant::now();
    let rotated = (|| {
        let started = bank.isthmus(&["ca", "rotate", "start"], "")?;
        require(started.contains("other meshes that believe this one need `isthmus ca bundle`"), || started.clone())?;
        hand_over(mesh)?;
        step(mesh, &bank, "promote")?;
        step(mesh, &bank, "retire")?;
        hand_over(mesh)
    })();
    println!("from start to the last bundle: {} s", began.elapsed().as_secs());
    let answer = mesh.get("web", VAULT_URL);
    let result = load.stop();
    rotated?;
    let answer = answer?;
    require(answer.status == 200, || format!("after it: {} {}", answer.status, answer.body))?;
    require(result.failed == 0 && result.ok > 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })
}

fn step(mesh: &Mesh, bank: &OtherMesh, step: &str) -> Result<(), String> {
    let mut last = String::new();
    let done = mesh.until(MINUTES, step, |_| {
        let (status, text) = bank.isthmus_status(&["ca", "rotate", step])?;
        last = text;
        Ok((status == Some(0)).then_some(()))
    });
    done.map_err(|e| format!("{e}: {last}"))
}
