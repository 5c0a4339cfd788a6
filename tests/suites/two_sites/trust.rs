//! A change of roots under load, also into a PKCS#11 token; a revocation that touches nobody else.

use std::time::{Duration, Instant};

use isthmus_world::find;
use isthmus_world::mesh::{LoadResult, Mesh, WORKLOADS};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("a_root_is_replaced_under_load_within_minutes_with_one_sidecar_offline_and_back", replaced),
    ("the_cas_keys_move_from_files_into_a_token_under_load", into_a_token),
    ("a_revocation_ends_the_revoked_peers_streams_and_nobody_elses", revoked),
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
