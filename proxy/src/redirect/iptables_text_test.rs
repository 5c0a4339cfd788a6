use super::super::{Exemption, InboundPorts, Scope, Udp};
use super::*;

fn plan() -> Plan {
    Plan::new(&Scope {
        inbound: InboundPorts::Only(vec![8080]),
        exclude_outbound_cidrs: vec!["10.97.0.0/16".parse().unwrap(), "fd00:97::/64".parse().unwrap()],
        ..Scope::all(Exemption::Uid(1337), 15001, 15006)
    })
}

const V4: &str = "\
*nat
:ISTHMUS_OUTBOUND - [0:0]
-A ISTHMUS_OUTBOUND -m owner --uid-owner 1337 -j RETURN
-A ISTHMUS_OUTBOUND -o lo -j RETURN
-A ISTHMUS_OUTBOUND -m addrtype --dst-type LOCAL -j RETURN
-A ISTHMUS_OUTBOUND -d 10.97.0.0/16 -j RETURN
-A ISTHMUS_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
-I OUTPUT -j ISTHMUS_OUTBOUND
:ISTHMUS_INBOUND - [0:0]
-A ISTHMUS_INBOUND -i lo -j RETURN
-A ISTHMUS_INBOUND -m addrtype ! --dst-type LOCAL -j RETURN
-A ISTHMUS_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTHMUS_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTHMUS_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTHMUS_INBOUND -p tcp -m tcp --dport 15053 -j RETURN
-A ISTHMUS_INBOUND -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 15006
-I PREROUTING -j ISTHMUS_INBOUND
COMMIT
";

/// What `iptables-save` would print after `input`, into a table where others have a rule.
fn after(input: &str) -> String {
    let rules: String = input.lines().filter(|line| line.starts_with("-A")).map(|line| format!("{line}\n")).collect();
    format!(
        "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTHMUS_OUTBOUND - [0:0]\n:ISTHMUS_INBOUND - [0:0]\n\
         -A PREROUTING -j ISTHMUS_INBOUND\n-A OUTPUT -j ISTHMUS_OUTBOUND\n-A OUTPUT -j DOCKER\n{rules}COMMIT\n"
    )
}

#[test]
fn each_family_gets_its_own_addresses() {
    assert_eq!(restore(&plan(), Family::V4, "").as_deref(), Some(V4));
    let v6 = restore(&plan(), Family::V6, "").unwrap();
    assert!(v6.contains("-d fd00:97::/64 -j RETURN") && !v6.contains("10.97"), "{v6}");
}

#[test]
fn what_is_in_force_is_not_touched() {
    assert_eq!(restore(&plan(), Family::V4, &after(V4)), None);
}

#[test]
fn another_plan_replaces_only_what_differs() {
    let mut plan = plan();
    plan.inbound.pop();
    let input = restore(&plan, Family::V4, &after(V4)).unwrap();
    assert!(input.contains(":ISTHMUS_INBOUND") && !input.contains("OUTBOUND") && !input.contains("-I"), "{input}");
}

#[test]
fn a_jump_that_others_overtook_or_doubled_is_made_first_and_single() {
    let saved = after(V4).replace("-A OUTPUT -j ISTHMUS_OUTBOUND\n", "");
    let overtaken = saved.replace("-A OUTPUT -j DOCKER\n", "-A OUTPUT -j DOCKER\n-A OUTPUT -j ISTHMUS_OUTBOUND\n");
    let again = "-D OUTPUT -j ISTHMUS_OUTBOUND\n-I OUTPUT -j ISTHMUS_OUTBOUND\n";
    assert_eq!(restore(&plan(), Family::V4, &overtaken), Some(format!("*nat\n{again}COMMIT\n")));
    let doubled = after(V4).replace("-j DOCKER", "-j ISTHMUS_OUTBOUND");
    let input = restore(&plan(), Family::V4, &doubled).unwrap();
    assert_eq!((input.matches("-D").count(), input.matches("-I").count()), (2, 1), "{input}");
}

#[test]
fn removal_names_all_of_ours_and_nothing_else() {
    assert_eq!(removal("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n"), None);
    let input = removal(&after(V4)).unwrap();
    assert_eq!(
        input,
        "*nat\n-D OUTPUT -j ISTHMUS_OUTBOUND\n-F ISTHMUS_OUTBOUND\n-X ISTHMUS_OUTBOUND\n\
         -D PREROUTING -j ISTHMUS_INBOUND\n-F ISTHMUS_INBOUND\n-X ISTHMUS_INBOUND\nCOMMIT\n"
    );
}

#[test]
fn udp_has_a_table_of_its_own() {
    let udp = Udp::Drop { resolvers: vec!["10.0.0.53".parse().unwrap()] };
    let plan = Plan::new(&Scope { udp, ..Scope::all(Exemption::Mark(1337), 15001, 15006) });
    let v4 = restore(&plan, Family::V4, "").unwrap();
    assert!(v4.contains("*filter\n:ISTHMUS_UDP - [0:0]\n-A ISTHMUS_UDP ! -p udp -j RETURN\n"), "{v4}");
    assert!(v4.contains("-A ISTHMUS_UDP -d 10.0.0.53/32 -p udp -m udp --dport 53 -j RETURN\n"), "{v4}");
    assert!(v4.contains("-A ISTHMUS_UDP -j DROP\n-I OUTPUT -j ISTHMUS_UDP\nCOMMIT\n"), "{v4}");
    assert!(!restore(&plan, Family::V6, "").unwrap().contains("10.0.0.53"));
}
