use super::super::{InboundPorts, Scope, Udp};
use super::*;

fn scope() -> Scope {
    Scope {
        own_ports: vec![15008],
        exclude_inbound_ports: vec![22],
        exclude_outbound_ports: vec![9, 7, 7],
        exclude_outbound_cidrs: vec!["169.254.169.254/32".parse().unwrap(), "fd00:1::7/32".parse().unwrap()],
        ..Scope::all(Exemption::Mark(1337), 15001, 15006)
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
    assert_eq!(taken[0].when, [Condition::Port(443)]);
    assert_eq!(taken[1].when, [Condition::Port(8080)]);
}

#[test]
fn what_is_included_is_taken_in_every_combination_and_nothing_else_is() {
    let scope = Scope {
        include_uids: vec![1000, 1001],
        include_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
        include_outbound_ports: vec![443, 80],
        exclude_uids: vec![33],
        ..Scope::all(Exemption::Uid(1337), 15001, 15006)
    };
    let text = Plan::new(&scope).outbound.iter().map(|rule| format!("{rule}\n")).collect::<String>();
    assert!(text.contains("meta skuid 33 return comment \"excludeUids\"\n"), "{text}");
    for uid in [1000, 1001] {
        for port in [80, 443] {
            let rule = format!("meta skuid {uid} ip daddr 10.0.0.0/8 tcp dport {port} redirect to :15001 comment");
            assert!(text.contains(&rule), "{rule}\n{text}");
        }
    }
    assert_eq!(text.matches("redirect").count(), 4);
}

#[test]
fn udp_is_dropped_only_where_asked_for_and_never_to_the_resolvers() {
    assert_eq!(Plan::new(&scope()).udp, []);
    let udp = Udp::Drop { resolvers: vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()] };
    let plan = Plan::new(&Scope { udp, ..scope() });
    let text = plan.udp.iter().map(|rule| format!("{rule}\n")).collect::<String>();
    assert_eq!(
        text,
        "meta l4proto != udp return comment \"not UDP\"\n\
         meta mark 0x00000539 return comment \"the proxy's own\"\n\
         oifname \"lo\" return comment \"loopback\"\n\
         fib daddr type local return comment \"to this host itself\"\n\
         ip daddr 10.0.0.53 udp dport 53 return comment \"a configured resolver\"\n\
         ip6 daddr fd00::53 udp dport 53 return comment \"a configured resolver\"\n\
         udp dport 7 return comment \"excludeOutboundPorts\"\n\
         udp dport 9 return comment \"excludeOutboundPorts\"\n\
         ip daddr 169.254.169.254 return comment \"excludeOutboundCidrs\"\n\
         ip6 daddr fd00:1::/32 return comment \"excludeOutboundCidrs\"\n\
         counter packets 0 bytes 0 drop comment \"UDP cannot be carried by the mesh\"\n"
    );
}

#[test]
fn a_scope_that_makes_too_many_rules_is_refused() {
    let many: Vec<u16> = (1..=4097).collect();
    let scope = Scope { include_outbound_ports: many, ..scope() };
    assert!(scope.check().unwrap_err().to_string().starts_with("4097 combinations"));
    assert!(Scope { outbound_port: 0, ..Scope::all(Exemption::Uid(1), 1, 1) }.check().is_err());
}
