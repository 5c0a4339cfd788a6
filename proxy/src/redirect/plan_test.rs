use super::*;

fn scope() -> Scope {
    Scope {
        exempt: Exemption::Mark(1337),
        outbound_port: 15001,
        inbound_port: 15006,
        own_ports: vec![15008],
        inbound: InboundPorts::All,
        exclude_inbound_ports: vec![22],
        exclude_outbound_ports: vec![9, 7, 7],
        exclude_outbound_cidrs: vec!["169.254.169.254/32".parse().unwrap(), "fd00:1::7/32".parse().unwrap()],
    }
}

#[test]
fn the_rules_read_as_nft_prints_them() {
    let expected = "\
table inet isthmus {
\tchain outbound {
\t\ttype nat hook output priority -110; policy accept;
\t\tmeta mark 0x00000539 return comment \"the proxy's own\"
\t\toifname \"lo\" return comment \"loopback\"
\t\tfib daddr type local return comment \"to this host itself\"
\t\ttcp dport 7 return comment \"excludeOutboundPorts\"
\t\ttcp dport 9 return comment \"excludeOutboundPorts\"
\t\tip daddr 169.254.169.254 return comment \"excludeOutboundCidrs\"
\t\tip6 daddr fd00:1::/32 return comment \"excludeOutboundCidrs\"
\t\tmeta l4proto tcp redirect to :15001 comment \"outbound\"
\t}
\tchain inbound {
\t\ttype nat hook prerouting priority -110; policy accept;
\t\tiifname \"lo\" return comment \"loopback\"
\t\tfib daddr type != local return comment \"forwarded, not for this host\"
\t\ttcp dport 15008 return comment \"the proxy's own port\"
\t\ttcp dport 15020 return comment \"the proxy's own port\"
\t\ttcp dport 15021 return comment \"the proxy's own port\"
\t\ttcp dport 15053 return comment \"the proxy's own port\"
\t\ttcp dport 22 return comment \"excludeInboundPorts\"
\t\tmeta l4proto tcp redirect to :15006 comment \"inbound\"
\t}
}
";
    assert_eq!(Plan::new(&scope()).to_string(), expected);
}

#[test]
fn a_vm_may_have_only_its_services_ports_captured() {
    let scope = Scope {
        exempt: Exemption::Uid(1337),
        inbound: InboundPorts::Only(vec![8080, 443, 8080]),
        exclude_inbound_ports: Vec::new(),
        ..scope()
    };
    let plan = Plan::new(&scope);
    assert_eq!(plan.outbound[0].to_string(), "meta skuid 1337 return comment \"the proxy's own\"");
    let taken: Vec<_> = plan.inbound.iter().filter(|rule| rule.action != Action::Return).collect();
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].when, Condition::Port(443));
    assert_eq!(taken[1].when, Condition::Port(8080));
}
