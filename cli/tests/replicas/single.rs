//! One control plane and its store: a backup while it runs, and the move to etcd.

use super::*;

#[test]
fn a_backup_is_taken_while_it_runs_and_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut control = Control::new(&dir.path().join("one"), "");
    control.start();
    good(&control.apply(&mesh(2)));
    let used = control.json(&["token", "create", "shop/w0", "--json"]).unwrap();
    assert!(used.is_object());
    let (backup, config) = (dir.path().join("backup").display().to_string(), control.config());
    let said = good(&control.run(&["control", "backup", &backup, "--config", &config, "--json"]));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["resources"].as_u64(), said["sealed"].as_bool()), (Some(3), Some(false)));
    assert!(refused(&control.run(&["control", "backup", &backup, "--config", &config])).contains("there already"));
    assert!(refused(&control.run(&["control", "restore", &backup, "--config", &config])).contains("--force"));
    assert!(
        refused(&control.run(&["control", "restore", &backup, "--config", &config, "--force"])).contains("open"),
        "a store that is in use was replaced"
    );
    good(&control.apply(&site(1)));
    let before = control.stored().unwrap();
    control.running = None;

    good(&control.run(&["control", "restore", &backup, "--config", &config, "--force"]));
    control.start();
    let after = control.stored().unwrap();
    assert_eq!(after.1.len(), before.1.len() - 1, "{after:?}");
    assert!(after.0 > before.0 + 1000, "proxies would refuse {after:?} after {before:?}");
    let tokens = control.json(&["token", "list", "--json"]).unwrap().to_string();
    assert!(tokens.contains("unused"), "its log says that nobody used it: {tokens}");
    control.running = None;

    // On another host, where nothing is known of what happened since.
    let mut other = Control::new(&dir.path().join("other"), "");
    good(&other.run(&["control", "restore", &backup, "--config", &other.config()]));
    other.start();
    assert_eq!(other.stored().unwrap().1, after.1);
    let tokens = other.json(&["token", "list", "--json"]).unwrap().to_string();
    assert!(tokens.contains("revoked") && !tokens.contains("unused"), "{tokens}");
    // The CA came with it: credentials of the first one are believed.
    let operator = control.dir.join("state/operator.yaml");
    let address = fs::read_to_string(other.dir.join("state/operator.yaml")).unwrap();
    let address = address.lines().next().unwrap().split('"').nth(1).unwrap().to_string();
    let done = other.run(&["get", "all", "--operator", operator.to_str().unwrap(), "--address", &address]);
    good(&done);
}

#[test]
fn a_store_moves_to_etcd_and_is_encrypted_there() {
    if isthmus_world::find::or_skip(&["etcd"], "the move to etcd").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut control = Control::new(&dir.path().join("one"), "");
    control.start();
    good(&control.apply(&mesh(3)));
    let before = control.stored().unwrap();
    control.running = None;

    let etcd = Etcd::start(1).unwrap();
    let key = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (first, second) = (key("first.key", "correct horse battery"), key("second.key", "another long one"));
    let (from, to) = (
        format!("redb:{}", control.dir.join("state/store.redb").display()),
        format!("etcd:{}", etcd.endpoints().join(",")),
    );
    let migrate = ["store", "migrate", "--from", &from, "--to", &to, "--to-passphrase-file", &first, "--json"];
    let said: Value = serde_json::from_str(&good(&control.run(&migrate))).unwrap();
    assert_eq!((said["verified"].as_bool(), said["revision"].as_u64()), (Some(true), Some(before.0)));
    assert!(refused(&control.run(&migrate[..8])).contains("holds something already"));

    let text = fs::read_to_string(control.config()).unwrap();
    let store = |key: &str| {
        format!(
            "store:\n  etcd: {{ endpoints: [\"{}\"] }}\n  encryption: {{ passphraseFile: {key} }}\n",
            etcd.endpoints()[0]
        )
    };
    fs::write(control.config(), format!("{text}{}", store(&first))).unwrap();
    control.start();
    assert_eq!(control.stored().unwrap(), before);
    good(&control.apply(&site(1)));
    control.running = None;

    // Another key around it: the former one opens nothing any more.
    let former = dir.path().join("former.yaml").display().to_string();
    fs::rename(control.config(), &former).unwrap();
    fs::write(control.config(), format!("{text}{}", store(&second))).unwrap();
    good(&control.run(&["store", "rewrap", "--config", &control.config(), "--former", &former]));
    let opens = control.run(&["control", "--config", &former]);
    assert!(String::from_utf8_lossy(&opens.stderr).contains("locked"), "{opens:?}");
    control.start();
    assert_eq!(control.stored().unwrap().1.len(), before.1.len() + 1);
}
