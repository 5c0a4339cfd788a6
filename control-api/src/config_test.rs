//! What the configuration file accepts, and how it says no.

use super::*;

const LEAST: &str = "trustDomain: shop.example\nstateDir: /tmp/x\nadvertise: '10.10.0.2:15012'\n";

#[test]
fn three_lines_are_enough() {
    let config = Config::parse(LEAST).unwrap();
    assert_eq!(config.listen.proxies.port(), 15012);
    assert_eq!(config.listen.operators.port(), 15013);
    assert!(config.resources.is_none());
}

#[test]
fn a_wrong_line_is_named() {
    for (more, expected) in
        [("listn: {}\n", "listn"), ("listen: { proxies: here }\n", "socket address"), ("log: { format: xml }\n", "xml")]
    {
        let reason = Config::parse(&format!("{LEAST}{more}")).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
        assert!(reason.contains('4'), "names the line: {reason}");
    }
    let reason = Config::parse(&LEAST.replace(":15012", "")).unwrap_err();
    assert!(reason.starts_with("advertise: `10.10.0.2` is not host:port"), "{reason}");
    assert!(Config::parse(&LEAST.replace("shop.example", "Shop Example")).unwrap_err().starts_with("trustDomain:"));
}

#[test]
fn what_takes_two_is_nothing_unless_it_is_named() {
    assert!(Config::parse(LEAST).unwrap().operators.second_approver.of.is_empty());
    let with = |more: &str| Config::parse(&format!("{LEAST}operators: {{ secondApprover: {more} }}\n"));
    let second = with("{ of: [ca, denyRemoval, permissive, roles], within: 2h }").unwrap().operators.second_approver;
    assert_eq!((second.of.len(), second.within), (4, Duration::from_secs(7200)));
    assert!(with("{ of: [cas] }").unwrap_err().contains("cas"));
    assert!(with("{ within: 10s }").unwrap_err().starts_with("operators.secondApprover.within:"));
}
