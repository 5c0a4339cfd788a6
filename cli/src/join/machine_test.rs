use super::*;

#[test]
fn the_unit_starts_this_binary_with_these_files() {
    let text =
        unit(Path::new("/opt/isthmus/bin/isthmus"), Path::new("/etc/mesh/proxy.yaml"), Path::new("/srv/mesh")).unwrap();
    assert!(text.contains("ExecStart=/opt/isthmus/bin/isthmus proxy --config /etc/mesh/proxy.yaml\n"), "{text}");
    assert!(text.contains("ReadWritePaths=/srv/mesh\n") && !text.contains("\nStateDirectory="), "{text}");
}

#[test]
fn with_default_paths_the_unit_is_the_shipped_one() {
    let paths = ["/usr/local/bin/isthmus", "/etc/isthmus/proxy.yaml", "/var/lib/isthmus"].map(Path::new);
    assert_eq!(unit(paths[0], paths[1], paths[2]).unwrap(), UNIT);
    assert!(UNIT.contains("User=isthmus\n") && UNIT.contains("AmbientCapabilities=CAP_NET_ADMIN\n"));
}

#[test]
fn a_path_that_systemd_would_misread_or_not_see_is_refused() {
    let (config, state) = (Path::new("/etc/isthmus/proxy.yaml"), Path::new("/var/lib/isthmus"));
    for wrong in ["/opt/my mesh/isthmus", "/opt/%h/isthmus", "/opt/$x/isthmus", "/opt/a\nUser=root/isthmus"] {
        assert!(unit(Path::new(wrong), config, state).is_err(), "{wrong:?}");
    }
    let hidden = unit(Path::new("/home/ops/isthmus"), config, state).unwrap_err().text();
    assert!(hidden.contains("sudo install"), "{hidden}");
}

#[test]
fn the_proxys_uid_and_name_belong_together_or_to_nobody() {
    assert!(!proxy_user("root:x:0:0::/root:/bin/sh\n").unwrap());
    assert!(proxy_user("isthmus:x:1337:1337::/nonexistent:/usr/sbin/nologin\n").unwrap());
    assert!(proxy_user("istio:x:1337:1337::/:/bin/sh\n").unwrap_err().text().contains("`istio`"));
    assert!(proxy_user("isthmus:x:998:998::/:/bin/sh\n").unwrap_err().text().contains("998"));
}
