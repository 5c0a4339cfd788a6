//! How traffic gets to the proxy.

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
    /// Default: nftables.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Rules in the kernel, for as long as the proxy lives.
    Nftables,
    /// Something else redirects, or nothing does.
    None,
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
            mode: take(self.mode, "capture.mode", || Mode::Nftables, problems),
            exempt: exemption(self.exempt, problems),
            inbound: take(self.inbound, "capture.inbound", || InboundCapture::All, problems),
            exclude_inbound_ports: match self.exclude_inbound_ports {
                Some(ports) => take_list(ports, "capture.excludeInboundPorts", problems),
                None => vec![22],
            },
            exclude_outbound_ports: take_list(self.exclude_outbound_ports, "capture.excludeOutboundPorts", problems),
            exclude_outbound_cidrs: take_list(self.exclude_outbound_cidrs, "capture.excludeOutboundCidrs", problems),
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
            "nftables" => Ok(Mode::Nftables),
            "none" => Ok(Mode::None),
            _ => Err(format!("{text:?} is no way to capture: write nftables or none")),
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
