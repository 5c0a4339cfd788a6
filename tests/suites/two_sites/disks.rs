//! State directories on disks that are full: nothing is lost that was there, it is said, and it mends itself.

use std::path::Path;
use std::time::Duration;

use isthmus_world::Command;
use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("what_cannot_be_put_on_record_is_not_issued_until_there_is_room_again", record),
    ("a_sidecar_on_a_full_disk_serves_renews_says_so_and_loses_nothing", state),
];

const SOON: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(20);

/// A shell on one host, whose mounts are its own.
fn shell(mesh: &Mesh, host: &str, script: &str, dir: &Path) -> Result<String, String> {
    let command = Command::new("sh").args(["-euc", script, "sh"]).arg(dir).named("shell");
    let done = mesh.world().host(host).output(command, DEADLINE).map_err(|e| e.to_string())?;
    match done.status.success() {
        true => Ok(done.stdout),
        false => Err(format!("{script}: {}{}", done.stdout, done.stderr)),
    }
}

/// Puts a directory, with what is in it, on a disk of its own with little room.
const SMALL_DISK: &str = "cp -a \"$1\" \"$1.aside\"; mount -t tmpfs -o size=2m,mode=0700 tmpfs \"$1\"; \
                          cp -a \"$1.aside/.\" \"$1/\"; rm -r \"$1.aside\"";
/// Takes all that is left, to the last byte.
const FILL: &str = "dd if=/dev/zero of=\"$1/filler\" bs=4k 2>/dev/null || true; \
                    dd if=/dev/zero of=\"$1/filler\" bs=1 count=8192 oflag=append conv=notrunc 2>/dev/null || true; \
                    ! echo x > \"$1/more\" 2>/dev/null || test ! -s \"$1/more\"; rm -f \"$1/more\"";
const CLEAR: &str = "rm \"$1/filler\"";

fn record(mesh: &mut Mesh) -> Result<(), String> {
    let audit = mesh.file("control").join("audit");
    mesh.control_mut().kill();
    shell(mesh, "control", SMALL_DISK, &audit)?;
    mesh.restart_control()?;
    mesh.kill_sidecar("batch")?;
    mesh.token("shop/batch", "1h", "again.token")?;
    let before = mesh.isthmus_json(&["audit", "verify", "--json"])?;
    shell(mesh, "control", FILL, &audit)?;
    // The page that the log ends in has room for a few lines more.
    let refused = mesh.until(SOON, "nothing can be put on record", |mesh| {
        let (status, text) = mesh.isthmus_status(&["token", "create", "shop/orders"])?;
        Ok((status != Some(0)).then_some(text))
    })?;
    require(refused.contains("audit"), || format!("a token that is not on record: {refused}"))?;
    let newcomer = mesh.join_as_stranger("again.token", "full")?;
    let said = newcomer.process().wait_for_line("why not", SOON, |line| line.contains("audit"));
    said.map_err(|e| e.to_string())?;
    require(!newcomer.log().iter().any(|line| line.contains("enrolled spiffe=")), || "it enrolled".to_owned())?;
    // Who has a certificate goes on, and does not get the next one.
    let serial = mesh.serial("web")?;
    mesh.renew("web")?;
    mesh.until(SOON, "web is told why", |mesh| {
        Ok((mesh.status("web")?["certificate"]["renewalFailures"] != 0).then_some(()))
    })?;
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("{} {}", answer.status, answer.body))?;
    require(mesh.serial("web")? == serial, || "renewed, and not on record".to_owned())?;
    shell(mesh, "control", CLEAR, &audit)?;
    // With nobody's help: the enrolment by the same token, and the renewal that was due.
    let enrolled = newcomer.process().wait_for_line("its enrolment", SOON, |line| line.contains("enrolled spiffe="));
    enrolled.map_err(|e| e.to_string())?;
    mesh.until(SOON, "web is renewed", |mesh| Ok((mesh.serial("web")? != serial).then_some(())))?;
    let after = mesh.isthmus_json(&["audit", "verify", "--json"])?;
    let lines = |of: &serde_json::Value| of["lines"].as_u64().unwrap_or_default();
    require(lines(&after) > lines(&before), || format!("{before} {after}"))
}

fn state(mesh: &mut Mesh) -> Result<(), String> {
    let dir = mesh.file("orders").join("state");
    let kept = |mesh: &Mesh| -> Result<serde_json::Value, String> { Ok(mesh.status("orders")?["kept"].clone()) };
    mesh.kill_sidecar("orders")?;
    shell(mesh, "orders", SMALL_DISK, &dir)?;
    mesh.start_sidecar_again("orders")?;
    mesh.until(SOON, "the snapshot is on disk", |mesh| Ok(kept(mesh)?["version"].is_u64().then_some(())))?;
    shell(mesh, "orders", FILL, &dir)?;
    let serial = mesh.serial("orders")?;
    mesh.renew("orders")?;
    mesh.until(SOON, "orders is renewed", |mesh| Ok((mesh.serial("orders")? != serial).then_some(())))?;
    mesh.apply(&isthmus_world::mesh::resources::batch_allowed())?;
    mesh.until(SOON, "the full disk is named", |mesh| {
        let status = mesh.status("orders")?;
        Ok((status["status"] == "warning" && status["warnings"].to_string().contains("kept")).then_some(()))
    })?;
    for caller in ["web", "batch"] {
        let answer = mesh.get(caller, ORDERS_URL)?;
        require(answer.status == 200, || format!("{caller}: {} {}", answer.status, answer.body))?;
    }
    // Killed on the full disk: the older identity is whole and still good, and so is the way back.
    mesh.kill_sidecar("orders")?;
    mesh.start_sidecar_again("orders")?;
    require(mesh.serial("orders")? == serial, || "it enrolled anew".to_owned())?;
    shell(mesh, "orders", CLEAR, &dir)?;
    mesh.until(SOON * 2, "the snapshot is on disk again", |mesh| Ok(kept(mesh)?["version"].is_u64().then_some(())))?;
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("at last: {} {}", answer.status, answer.body))
}
