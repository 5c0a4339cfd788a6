//! The host's own resolvers and host names: /etc/resolv.conf and /etc/hosts. Pure readers of text.

use std::net::IpAddr;

/// As resolv.conf(5): more are not asked.
const MAX_SERVERS: usize = 3;

/// The `nameserver` lines; one with a scope (`fe80::1%eth0`) is not read.
pub fn name_servers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    text.lines().filter_map(address).take(MAX_SERVERS).collect()
}

/// The addresses that a hosts file has for `name`.
pub fn addresses_of(text: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    };
    text.lines().filter_map(address).collect()
}
