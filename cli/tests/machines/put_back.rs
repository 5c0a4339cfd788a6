//! A control plane whose state is put back from a backup: its store alone, then all of it.

use isthmus_world::Port;

use super::*;

/// A control plane at a port of its own choosing, that is stopped and started on a directory.
struct Kept {
    dir: tempfile::TempDir,
    /// Where a control plane comes back, its proxies look for it at the same place.
    port: Port,
}

impl Kept {
    fn start(&self) -> Control {
        let at = self.dir.path().display();
        let text = format!(
            "trustDomain: shop.example\nstateDir: {at}/state\nadvertise: {port}\nresources: {at}/resources\n\
             listen: {{ proxies: '{port}', operators: '127.0.0.1:0', metrics: '127.0.0.1:0' }}\n",
            port = self.port.address()
        );
        let config = self.dir.path().join("control.yaml");
        fs::write(&config, text).unwrap();
        let mut daemon = Daemon::start(&["control", "--config", &config.display().to_string()], None);
        daemon.says(&["control plane up"]);
        // What it is given is not its own: the directory outlives it.
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        std::os::unix::fs::symlink(self.dir.path().join("state"), dir.path().join("state")).unwrap();
        Control { dir, daemon }
    }

    fn copy(&self, from: &str, to: &str) {
        let of = |name: &str| self.dir.path().join(name);
        let copied = Command::new("cp").arg("-a").arg(of(from)).arg(of(to)).status().unwrap();
        assert!(copied.success());
    }

    /// A proxy's configuration with a state directory of this name.
    fn proxy(&self, name: &str) -> String {
        let (at, any) = (self.dir.path().display(), "'127.0.0.1:0'");
        let text = format!(
            "joinTokenFile: {at}/{name}.token\nstateDir: {at}/{name}.state\nlastGood: {{ seal: none }}\nworkers: 1\n\
             capture: {{ mode: none }}\n\
             listen: {{ outbound: {any}, inbound: {any}, mesh: {any}, metrics: {any}, readiness: {any} }}\n"
        );
        let path = self.dir.path().join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn token(&self, control: &Control, name: &str) {
        let made = control.isthmus(&["token", "create", &format!("shop/{name}")], None);
        fs::write(self.dir.path().join(format!("{name}.token")), made.stdout).unwrap();
    }
}

#[test]
fn a_control_plane_that_is_put_back_revives_neither_who_was_revoked_nor_a_token_that_was_used() {
    let kept = Kept { dir: tempfile::tempdir().unwrap(), port: Port::reserve().unwrap() };
    fs::create_dir_all(kept.dir.path().join("resources")).unwrap();
    fs::write(kept.dir.path().join("resources/mesh.yaml"), MESH).unwrap();
    let control = kept.start();
    kept.token(&control, "orders");
    kept.token(&control, "web");
    let mut orders = Daemon::start(&["proxy", "--config", &kept.proxy("orders")], None);
    orders.says(&["discovery: connected"]);
    drop(control);
    kept.copy("state", "yesterday");

    // Since then: a token was used, and a machine was stolen.
    let control = kept.start();
    let mut web = Daemon::start(&["proxy", "--config", &kept.proxy("web")], None);
    web.says(&["enrolled spiffe="]);
    control.isthmus(&["identity", "revoke", "--id", "spiffe://shop.example/ns/shop/sa/orders"], None);
    web.says(&["revocations: epoch"]);
    drop(orders);
    drop(control);
    fs::copy(kept.dir.path().join("web.token"), kept.dir.path().join("again.token")).unwrap();

    // The store alone: the audit log beside it knows.
    fs::copy(kept.dir.path().join("yesterday/store.redb"), kept.dir.path().join("state/store.redb")).unwrap();
    let control = kept.start();
    assert!(
        control.daemon.seen.iter().any(|line| line.contains("older than the audit log")),
        "{:?}",
        control.daemon.seen
    );
    let mut thief = Daemon::start(&["proxy", "--config", &kept.proxy("again")], None);
    thief.says(&["was used"]);
    let mut orders = Daemon::start(&["proxy", "--config", &kept.proxy("orders")], None);
    orders.says(&["revoked"]);
    drop((thief, orders));
    let before = control.isthmus(&["audit", "verify"], None);
    assert!(before.status.success());
    drop(control);

    // All of it, log and keys included: the proxies know.
    fs::remove_dir_all(kept.dir.path().join("state")).unwrap();
    kept.copy("yesterday", "state");
    let mut control = kept.start();
    // In either order, and before it says that it is up or after.
    control.daemon.has_said("this certificate is ours and not on record");
    control.daemon.has_said("signed revocations that it does not know");
    let mut thief = Daemon::start(&["proxy", "--config", &kept.proxy("again")], None);
    thief.says(&["was revoked"]);
    let mut orders = Daemon::start(&["proxy", "--config", &kept.proxy("orders")], None);
    orders.says(&["revoked"]);
    // And the operator is told.
    let operator = control.path("state/operator.yaml");
    let checked = Command::new(ISTHMUS).arg("check").env("ISTHMUS_OPERATOR", operator).output().unwrap();
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(4), "{text}");
    assert!(text.contains("shop/web: not on record"), "{text}");
    drop(web);
}
