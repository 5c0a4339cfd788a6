use super::version_in;

#[test]
fn each_program_tells_its_version_in_its_own_way() {
    for (text, version) in [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0-3+b2"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
        ("\n/opt/envoy  version: 9e5580933739775e8bce/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ("isthmus 0.1.0", "0.1.0"),
    ] {
        assert_eq!(version_in(text), Some(version), "{text}");
    }
}
