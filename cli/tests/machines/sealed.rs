//! A state directory that systemd-creds has sealed: opened on this machine, and on no other.

use super::*;

/// Whether this machine can seal; said where it cannot, and a failure where CI promised it.
fn seals() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let found = Command::new("systemd-creds").arg("--version").output().is_ok_and(|done| done.status.success());
    if !(root && found) {
        let message = "SKIPPED: a sealed state directory: needs root and systemd-creds";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{message} (CI is set)");
        eprintln!("{message}");
    }
    root && found
}

#[test]
fn a_sealed_state_directory_opens_on_this_machine_and_on_no_other() {
    if !seals() {
        return;
    }
    let world = Control::start("", None);
    let config = world.with_token(None);
    let mut sidecar = Daemon::start(&["proxy", "--config", &config], None);
    sidecar.says(&["enrolled spiffe="]);
    sidecar.says(&["discovery: connected"]);
    drop(sidecar);
    let mut names = Vec::new();
    for entry in fs::read_dir(world.path("proxy")).unwrap().map(Result::unwrap) {
        let bytes = fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(11).any(|part| part == b"PRIVATE KEY"), "{entry:?} is in plain");
        names.push(entry.file_name().into_string().unwrap());
    }
    assert!(names.iter().any(|name| name == "identity.pem.sealed"), "{names:?}");
    let mut again = Daemon::start(&["proxy", "--config", &config], None);
    again.says(&["discovery: connected"]);
    assert!(!again.seen.iter().any(|line| line.contains("enrolled spiffe=")), "{:?}", again.seen);
    drop(again);
    // The same files where the machine is another one.
    fs::write(world.path("machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let script = "mount --make-rprivate / && mount --bind \"$1\" /etc/machine-id && exec \"$2\" proxy --config \"$3\"";
    let elsewhere = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", &world.path("machine-id"), ISTHMUS, &config])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(!elsewhere.status.success() && said.contains("It was sealed on another machine"), "{said}");
}
