//! A change of roots under load, also into a PKCS#11 token; a revocation that touches nobody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use isthmus_world::apps::echo_server;
use isthmus_world::find;
use isthmus_world::mesh::{LoadResult, Mesh, ORDERS_URL, WORKLOADS, resources};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_root_is_replaced_under_load_within_minutes_with_one_sidecar_offline_and_back", replaced),
    ("the_cas_keys_move_from_files_into_a_token_under_load", into_a_token),
    ("a_revocation_touches_nobody_elses_connections", revoked),
    ("a_revoked_peers_open_stream_ends_within_seconds_and_it_stays_out_over_restarts", live_stream),
    ("under_the_fips_profile_new_connections_have_its_algorithms_and_the_metric_says_so", fips),
    ("an_open_stream_outlives_its_certificates_by_max_stream_age_and_no_longer", outlives),
];

/// A tenth of it is what the mesh of three needs.
const MINUTES: Duration = Duration::from_secs(120);
const DIALLED: &str = "isthmus_mesh_connections_opened_total";

fn unharmed(result: &LoadResult) -> Result<(), String> {
    require(result.failed == 0 && result.ok > 0, || {
        format!("{} of {} requests failed: {}", result.failed, result.total(), result.first_error())
    })
}

fn replaced(mesh: &mut Mesh) -> Result<(), String> {
    let load = mesh.load();
    let rotated = replace_with_one_offline(mesh);
    let result = load.stop();
    rotated?;
    unharmed(&result)
}

fn replace_with_one_offline(mesh: &mut Mesh) -> Result<(), String> {
    mesh.kill_sidecar("batch")?;
    mesh.isthmus(&["ca", "rotate", "start"])?;
    // The others have it; batch is waited for, by name.
    let refused = mesh.until(MINUTES, "only batch is missing", |mesh| {
        let (status, text) = mesh.isthmus_status(&["ca", "rotate", "promote"])?;
        require(status == Some(1), || format!("promoted without batch: {text}"))?;
        Ok((text.contains("shop/batch") && !text.contains("shop/web") && !text.contains("shop/orders")).then_some(text))
    })?;
    require(refused.contains("offline"), || refused.clone())?;
    mesh.start_sidecar_again("batch")?;
    finish(mesh)
}

/// From a root that is distributed to one that is alone.
fn finish(mesh: &Mesh) -> Result<(), String> {
    step(mesh, "promote")?;
    let promoted = Instant::now();
    step(mesh, "retire")?;
    let took = promoted.elapsed();
    println!("from promote to retire: {} s", took.as_secs());
    let state = mesh.isthmus_json(&["ca", "rotate", "status", "--json"])?;
    require(state["phase"] == "settled", || format!("{state}"))
}

fn step(mesh: &Mesh, step: &str) -> Result<(), String> {
    let mut last = String::new();
    let done = mesh.until(MINUTES, step, |mesh| {
        let (status, text) = mesh.isthmus_status(&["ca", "rotate", step])?;
        last = text;
        Ok((status == Some(0)).then_some(()))
    });
    done.map_err(|e| format!("{e}: {last}"))
}

fn into_a_token(mesh: &mut Mesh) -> Result<(), String> {
    let Some(_) = find::or_skip(&["softhsm2-util"], "the CA's keys in a PKCS#11 token") else { return Ok(()) };
    let module = "/usr/lib/softhsm/libsofthsm2.so";
    let (config, tokens, pin) = (mesh.file("softhsm2.conf"), mesh.file("tokens"), mesh.file("pin"));
    let io = |e: std::io::Error| e.to_string();
    std::fs::create_dir_all(&tokens).map_err(io)?;
    std::fs::write(&config, format!("directories.tokendir = {}\n", tokens.display())).map_err(io)?;
    std::fs::write(&pin, "1234\n").map_err(io)?;
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(io)?;
    let arguments = ["--init-token", "--free", "--label", "isthmus", "--so-pin", "4321", "--pin", "1234"];
    let env = ("SOFTHSM2_CONF".to_owned(), config.display().to_string());
    mesh.run_on_control("softhsm2-util", &arguments, &env)?;
    let load = mesh.load();
    let authority = format!(
        "authority:\n  keys:\n    pkcs11: {{ module: {module}, token: isthmus, pinFile: {} }}\n  formerKeys:\n    - file: {{}}\n",
        pin.display()
    );
    let moved = mesh.reconfigure_control(&authority, env).and_then(|()| {
        mesh.isthmus(&["ca", "rotate", "start"])?;
        finish(mesh)
    });
    let result = load.stop();
    moved?;
    unharmed(&result)?;
    let key = mesh.control_plane_file_with(b"PRIVATE KEY");
    println!("files with a private key that are left: {key:?}");
    Ok(())
}

fn revoked(mesh: &mut Mesh) -> Result<(), String> {
    let dialled = |mesh: &Mesh| -> Result<f64, String> {
        WORKLOADS.iter().try_fold(0.0, |sum, w| Ok(sum + mesh.metric(w, DIALLED, &[("side", "client")])?))
    };
    let load = mesh.load();
    let flows = mesh.until(MINUTES, "the load flows", |_| Ok((load.so_far() >= 200).then_some(())));
    let before = dialled(mesh)?;
    let id = "spiffe://shop.example/ns/shop/sa/batch";
    let revoked = mesh.isthmus(&["identity", "revoke", "--id", id, "--reason", "test"]);
    let at = load.so_far();
    let on = mesh.until(MINUTES, "the load goes on", |_| Ok((load.so_far() >= at + 600).then_some(())));
    let after = dialled(mesh)?;
    let result = load.stop();
    flows?;
    revoked?;
    on?;
    unharmed(&result)?;
    // A worker of the load may have had its second connection coming; a rotation of all would be several.
    require(after - before <= 1.0, || format!("{} mesh connections were made anew by a revocation", after - before))
}

/// Bytes and nothing else, to the app on `orders`.
const ECHO: &str = r#"
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: echo }
spec:
  clusterIPs: [10.96.0.13]
  selector: { app: orders }
  ports: [{ name: tcp, port: 7007, targetPort: 7007, appProtocol: tcp }]
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: shop, name: echo }
spec:
  services: [echo]
  transport: MeshOnly
  allow:
    - from: { serviceAccounts: [web, batch] }
"#;
const TO_ECHO: &str = "10.96.0.13:7007";

fn live_stream(mesh: &mut Mesh) -> Result<(), String> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7007));
    let _app = echo_server(mesh.world().host("orders"), at).map_err(|e| e.to_string())?;
    mesh.apply(ECHO)?;
    let (mut web, mut batch) = (mesh.open_stream("web", TO_ECHO)?, mesh.open_stream("batch", TO_ECHO)?);
    let began = Instant::now();
    mesh.isthmus(&["identity", "revoke", "--id", "spiffe://shop.example/ns/shop/sa/batch", "--reason", "stolen"])?;
    batch.ended_within(Duration::from_secs(10)).ok_or("the revoked peer's stream goes on")?;
    println!("ended {} ms after the command began", began.elapsed().as_millis());
    require(web.echoes(), || "the stream of somebody else ended".to_owned())?;
    require(mesh.open_stream("batch", TO_ECHO).is_err(), || "the revoked peer came in again".to_owned())?;
    let refused = |mesh: &Mesh| mesh.metric("orders", "isthmus_mesh_handshakes_failed_total", &[("reason", "revoked")]);
    mesh.until(MINUTES, "its handshakes are refused", |mesh| {
        let _ = mesh.open_stream("batch", TO_ECHO);
        Ok((refused(mesh)? > 0.0).then_some(()))
    })?;
    // Both ends and the control plane forget what is in memory; at first nobody is there who could say it again.
    mesh.control_mut().kill();
    for workload in ["orders", "batch"] {
        mesh.kill_sidecar(workload)?;
        mesh.start_sidecar_again(workload)?;
    }
    require(mesh.open_stream("batch", TO_ECHO).is_err(), || "after a restart without a control plane".to_owned())?;
    mesh.restart_control()?;
    mesh.until(MINUTES, "web is served", |mesh| Ok(mesh.open_stream("web", TO_ECHO).ok().map(drop)))?;
    require(mesh.open_stream("batch", TO_ECHO).is_err(), || "after a restart of everybody".to_owned())
}

/// Certificates of a minute, and half a minute more for what is open then.
fn outlives(mesh: &mut Mesh) -> Result<(), String> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7007));
    let _app = echo_server(mesh.world().host("orders"), at).map_err(|e| e.to_string())?;
    mesh.apply(ECHO)?;
    let short = resources::mesh(&mesh.collector_url(), "60s");
    let short = short.replacen("leafLifetime: 60s", "leafLifetime: 60s\n    maxStreamAge: 30s", 1);
    mesh.apply(&short)?;
    let left = |mesh: &Mesh, workload: &str| -> Result<u64, String> {
        Ok(mesh.status(workload)?["certificate"]["secondsLeft"].as_u64().unwrap_or(u64::MAX))
    };
    mesh.until(MINUTES, "certificates are short", |mesh| {
        Ok((left(mesh, "web")? <= 60 && left(mesh, "orders")? <= 60).then_some(()))
    })?;
    // A connection of these certificates, and none of before: the sidecar of web is new.
    mesh.restart_sidecar("web")?;
    mesh.until(MINUTES, "web is served", |mesh| Ok(mesh.open_stream("web", TO_ECHO).ok().map(drop)))?;
    let mut stream = mesh.open_stream("web", TO_ECHO)?;
    let (web, orders) = (left(mesh, "web")?, left(mesh, "orders")?);
    let began = Instant::now();
    let both_ended = Duration::from_secs(web.max(orders) + 3);
    mesh.until(MINUTES, "both certificates have ended", |_| Ok((began.elapsed() > both_ended).then_some(())))?;
    require(stream.echoes(), || format!("ended with the certificates: {web} s, {orders} s"))?;
    let ended = stream.ended_within(Duration::from_secs(60)).map(|_| began.elapsed());
    let ended = ended.ok_or("the stream goes on though maxStreamAge has passed")?;
    let earliest = Duration::from_secs(web.min(orders) + 30);
    println!("ended after {} s; certificates had {web} s and {orders} s, and 30 s more", ended.as_secs());
    require(ended >= earliest && ended < earliest + Duration::from_secs(15), || format!("ended after {ended:?}"))
}

fn fips(mesh: &mut Mesh) -> Result<(), String> {
    let agreed = |mesh: &Mesh, workload: &str, group: &str| {
        mesh.metric(workload, "isthmus_mesh_tls_total", &[("version", "1.3"), ("group", group)])
    };
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("before: {} {}", answer.status, answer.body))?;
    let before = agreed(mesh, "web", "X25519MLKEM768")?;
    require(before > 0.0, || "the metric does not say what was agreed on".to_owned())?;
    let load = mesh.load();
    let changed = (|| {
        let spec = resources::mesh(&mesh.collector_url(), "24h");
        mesh.apply(&spec.replacen("  enforcement: Enforce", "  enforcement: Enforce\n  cryptoProfile: fips", 1))?;
        mesh.until(MINUTES, "new connections are of the profile", |mesh| {
            let both = agreed(mesh, "web", "secp256r1")? > 0.0 && agreed(mesh, "orders", "secp256r1")? > 0.0;
            Ok(both.then_some(()))
        })?;
        let known = mesh.isthmus(&["certs"])?;
        require(known.contains("crypto profile fips (fips module: no)"), || known.clone())
    })();
    let result = load.stop();
    changed?;
    unharmed(&result)?;
    let cipher = [("group", "secp256r1"), ("cipher", "TLS_CHACHA20_POLY1305_SHA256")];
    require(mesh.metric("web", "isthmus_mesh_tls_total", &cipher)? == 0.0, || "a cipher outside of it".to_owned())
}
