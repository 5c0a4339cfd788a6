//! One rule of a plan as nf_tables' expressions: what its text says, and nothing else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::{Base, Expression, Meta, Verdict};
use super::plan::{Action, Condition, Rule};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const RTN_LOCAL: u32 = 2;
/// Interface names are compared as the kernel keeps them.
const IFNAMSIZ: usize = 16;

/// The steps of `rule`, in order.
pub(super) fn expressions(rule: &Rule) -> Vec<Expression> {
    let mut steps: Vec<Expression> = rule.when.iter().flat_map(condition).collect();
    match rule.action {
        Action::Return => steps.push(Expression::Verdict(Verdict::Return)),
        Action::Redirect(port) => {
            steps.extend([Expression::Immediate(port.to_be_bytes().to_vec()), Expression::Redirect]);
        }
        Action::Drop => steps.extend([Expression::Counter, Expression::Verdict(Verdict::Drop)]),
    }
    steps
}

fn condition(condition: &Condition) -> Vec<Expression> {
    let meta = |key, value: &[u8]| vec![Expression::Meta(key), Expression::Equal(value.to_vec())];
    match condition {
        Condition::Mark(mark) => meta(Meta::Mark, &mark.to_ne_bytes()),
        Condition::Uid(uid) => meta(Meta::SocketUid, &uid.to_ne_bytes()),
        Condition::ToLoopback => meta(Meta::OutputName, &interface("lo")),
        Condition::FromLoopback => meta(Meta::InputName, &interface("lo")),
        Condition::ToThisHost => vec![Expression::AddressKind, Expression::Equal(RTN_LOCAL.to_ne_bytes().to_vec())],
        Condition::NotToThisHost => {
            vec![Expression::AddressKind, Expression::NotEqual(RTN_LOCAL.to_ne_bytes().to_vec())]
        }
        Condition::Port(port) => to_port(IPPROTO_TCP, *port),
        Condition::UdpPort(port) => to_port(IPPROTO_UDP, *port),
        Condition::To(cidr) => to(cidr),
        Condition::Tcp => meta(Meta::Transport, &[IPPROTO_TCP]),
        Condition::NotUdp => vec![Expression::Meta(Meta::Transport), Expression::NotEqual(vec![IPPROTO_UDP])],
    }
}

/// TCP and UDP have the destination's port at the same place (RFC 9293, RFC 768).
fn to_port(protocol: u8, port: u16) -> Vec<Expression> {
    vec![
        Expression::Meta(Meta::Transport),
        Expression::Equal(vec![protocol]),
        Expression::Payload { base: Base::Transport, offset: 2, length: 2 },
        Expression::Equal(port.to_be_bytes().to_vec()),
    ]
}

fn to(cidr: &IpNet) -> Vec<Expression> {
    // Where the destination stands in either header (RFC 791, RFC 8200).
    let (family, offset, address) = match cidr.network() {
        IpAddr::V4(v4) => (NFPROTO_IPV4, 16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (NFPROTO_IPV6, 24, v6.octets().to_vec()),
    };
    let length = if family == NFPROTO_IPV4 { 4 } else { 16 };
    let mut steps = vec![Expression::Meta(Meta::Protocol), Expression::Equal(vec![family])];
    steps.push(Expression::Payload { base: Base::Network, offset, length });
    if cidr.prefix_len() < cidr.max_prefix_len() {
        let mask = match cidr.netmask() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        steps.push(Expression::Mask(mask));
    }
    steps.push(Expression::Equal(address));
    steps
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes
}
