//! How traffic gets to the proxy.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::redirect::Exemption;

use super::error::Problem;
use super::field::{Field, FromScalar, Scalar, take, take_list, take_optional};

/// The user that the proxy runs as in the packaged images and units.
const PROXY_UID: u32 = 1337;

/// How traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Default: auto.
    pub mode: Mode,
    /// The proxy's own traffic. Default: uid 1337.
    pub exempt: Exemption,
    /// Default: all.
    pub inbound: InboundCapture,
    /// Ports of this host that stay outside the mesh. Default: 22, so that a mistake does not lock the operator out.
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports elsewhere that the app reaches directly. Default: none.
    pub exclude_outbound_ports: Vec<u16>,
    /// Addresses elsewhere that the app reaches directly. Default: none.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// What reaches the proxy, where not everything does. Default: everything.
    pub include_outbound_ports: Vec<u16>,
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Users whose processes are captured, where not all are. Default: all.
    pub include_uids: Vec<u32>,
    /// Users whose processes are left alone. Default: none.
    pub exclude_uids: Vec<u32>,
    /// Outgoing UDP. Default: pass.
    pub udp: UdpCapture,
    /// Where DNS may go while UDP is dropped.
    pub resolvers: Vec<IpAddr>,
    /// When the proxy is stopped. Default: keep.
    pub on_stop: OnStop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// nftables, or iptables where the kernel has no nf_tables.
    Auto,
    /// Rules in the kernel, over netlink.
    Nftables,
    /// Rules by the programs iptables and ip6tables.
    Iptables,
    /// Something else redirects, or nothing does.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpCapture {
    Pass,
    /// Dropped and counted, but for DNS to the resolvers and what is excluded.
    Drop,
}

/// What becomes of the rules at an orderly stop. After a crash they stay in any case; after Ctrl-C (SIGINT) in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// The host is as it was.
    Remove,
    /// What was captured is refused until a proxy runs again, or `isthmus redirect remove`.
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundCapture {
    /// Every TCP port.
    All,
    /// The ports of the services that this workload is part of.
    Services,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct CaptureFile {
    mode: Field<Mode>,
    exempt: Option<Spanned<ExemptFile>>,
    inbound: Field<InboundCapture>,
    exclude_inbound_ports: Option<Vec<Spanned<Scalar<u16>>>>,
    exclude_outbound_ports: Vec<Spanned<Scalar<u16>>>,
    exclude_outbound_cidrs: Vec<Spanned<Scalar<IpNet>>>,
    include_outbound_ports: Vec<Spanned<Scalar<u16>>>,
    include_outbound_cidrs: Vec<Spanned<Scalar<IpNet>>>,
    include_uids: Vec<Spanned<Scalar<u32>>>,
    exclude_uids: Vec<Spanned<Scalar<u32>>>,
    udp: Field<UdpCapture>,
    resolvers: Vec<Spanned<Scalar<IpAddr>>>,
    on_stop: Field<OnStop>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ExemptFile {
    uid: Field<u32>,
    mark: Field<u32>,
}

impl CaptureFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Capture {
        Capture {
            mode: take(self.mode, "capture.mode", || Mode::Auto, problems),
            exempt: exemption(self.exempt, problems),
            inbound: take(self.inbound, "capture.inbound", || InboundCapture::All, problems),
            exclude_inbound_ports: match self.exclude_inbound_ports {
                Some(ports) => take_list(ports, "capture.excludeInboundPorts", problems),
                None => vec![22],
            },
            exclude_outbound_ports: take_list(self.exclude_outbound_ports, "capture.excludeOutboundPorts", problems),
            exclude_outbound_cidrs: take_list(self.exclude_outbound_cidrs, "capture.excludeOutboundCidrs", problems),
            include_outbound_ports: take_list(self.include_outbound_ports, "capture.includeOutboundPorts", problems),
            include_outbound_cidrs: take_list(self.include_outbound_cidrs, "capture.includeOutboundCidrs", problems),
            include_uids: take_list(self.include_uids, "capture.includeUids", problems),
            exclude_uids: take_list(self.exclude_uids, "capture.excludeUids", problems),
            udp: take(self.udp, "capture.udp", || UdpCapture::Pass, problems),
            resolvers: take_list(self.resolvers, "capture.resolvers", problems),
            on_stop: take(self.on_stop, "capture.onStop", || OnStop::Keep, problems),
        }
    }
}

fn exemption(file: Option<Spanned<ExemptFile>>, problems: &mut Vec<Problem>) -> Exemption {
    let default = Exemption::Uid(PROXY_UID);
    let Some(file) = file else { return default };
    let at = Some((file.referenced.line(), file.referenced.column()));
    let (had_uid, had_mark) = (file.value.uid.is_some(), file.value.mark.is_some());
    let uid = take_optional(file.value.uid, "capture.exempt.uid", problems);
    let mark = take_optional(file.value.mark, "capture.exempt.mark", problems);
    match (uid, mark) {
        (Some(uid), None) => return Exemption::Uid(uid),
        (None, Some(mark)) if mark != 0 => return Exemption::Mark(mark),
        (None, Some(_)) => {
            let message = "0 is what every socket has: choose another mark".to_owned();
            problems.push(Problem { at, field: "capture.exempt.mark".to_owned(), message });
        }
        _ if had_uid == had_mark => {
            let message = "write either uid or mark".to_owned();
            problems.push(Problem { at, field: "capture.exempt".to_owned(), message });
        }
        _ => {} // The one that is there is bad, and that has been said.
    }
    default
}

impl FromScalar for Mode {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Mode::Auto),
            "nftables" => Ok(Mode::Nftables),
            "iptables" => Ok(Mode::Iptables),
            "none" => Ok(Mode::None),
            _ => Err(format!("{text:?} is no way to capture: write auto, nftables, iptables or none")),
        }
    }
}

impl FromScalar for IpAddr {
    fn from_scalar(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no IP address"))
    }
}

impl FromScalar for UdpCapture {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "pass" => Ok(UdpCapture::Pass),
            "drop" => Ok(UdpCapture::Drop),
            _ => Err(format!("{text:?} is unknown: write pass or drop")),
        }
    }
}

impl FromScalar for OnStop {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "remove" => Ok(OnStop::Remove),
            "keep" => Ok(OnStop::Keep),
            _ => Err(format!("{text:?} is unknown: write remove or keep")),
        }
    }
}

impl FromScalar for InboundCapture {
    fn from_scalar(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(InboundCapture::All),
            "services" => Ok(InboundCapture::Services),
            _ => Err(format!("{text:?} is unknown: write all or services")),
        }
    }
}
