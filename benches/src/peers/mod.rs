//! Who is measured. Each contender is a caller's proxy and a callee's proxy with one worker thread each, TLS 1.3 with
//! client certificates between them, logs off.

mod envoy;
mod haproxy;
mod isthmus;

use clap::ValueEnum;
use isthmus_world::Process;

use crate::certificates::Certificates;
use crate::mutual_tls::{self, Asked, Proof};
use crate::programs::Programs;
use crate::stage::Stage;

/// Where the peers' outbound proxies listen, on the caller's loopback.
const OUTBOUND_PORT: u16 = 15001;
/// Where the peers' inbound proxies listen, on the callee's address.
const INBOUND_PORT: u16 = 15006;

/// A contender. The order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// No proxy at all: what the machine can do.
    Direct,
    /// Ours, with capture, a policy of 100 rules, metrics and 1 % of spans.
    Isthmus,
    /// HTTP/2 between the two.
    HaproxyH2,
    /// HTTP/1.1 between the two.
    HaproxyH1,
    /// HTTP/2 between the two.
    EnvoyH2,
}

/// A contender that is up and has proved that it demands client certificates.
pub(crate) struct Running {
    /// What the load calls.
    pub(crate) url: String,
    /// The proxies: caller's, callee's. None for [`Peer::Direct`].
    pub(crate) sides: Option<Sides>,
    /// The proof that it demands client certificates.
    pub(crate) proof: Option<Proof>,
    /// What must live as long, such as a control plane; its use is not counted.
    beside: Option<isthmus::Beside>,
}

impl Running {
    /// After the load: what a contender should have done besides. Returns it in words, by name.
    pub(crate) fn also_did(&self) -> Result<Option<(&'static str, String)>, String> {
        let spans = self.beside.as_ref().map(isthmus::Beside::spans).transpose()?;
        Ok(spans.map(|spans| ("spans", spans.to_string())))
    }
}

/// The two processes whose use is counted.
pub(crate) struct Sides {
    pub(crate) caller: Process,
    pub(crate) callee: Process,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isthmus => "isthmus",
            Self::HaproxyH2 => "haproxy-h2",
            Self::HaproxyH1 => "haproxy-h1",
            Self::EnvoyH2 => "envoy-h2",
        }
    }

    /// Starts it on a stage and makes sure of its client certificates.
    pub(crate) fn start(
        self,
        programs: &Programs,
        certificates: &Certificates,
        stage: &Stage,
    ) -> Result<Running, String> {
        let program = programs.of(self).ok_or("its program is missing")?;
        let sides = match self {
            Self::Direct => {
                return Ok(Running { url: stage.app_url(), sides: None, proof: None, beside: None });
            }
            Self::Isthmus => return isthmus::start(program, stage),
            Self::HaproxyH2 => haproxy::start(program, certificates, stage, haproxy::Between::Http2)?,
            Self::HaproxyH1 => haproxy::start(program, certificates, stage, haproxy::Between::Http1)?,
            Self::EnvoyH2 => envoy::start(program, certificates, stage)?,
        };
        let asked = Asked {
            from: &stage.hosts.client,
            address: stage.hosts.server.socket(INBOUND_PORT),
            name: &certificates.callee.dns_name,
            alpn: if self == Self::HaproxyH1 { "http/1.1" } else { "h2" },
        };
        let proof = mutual_tls::prove(&asked, &certificates.caller)?;
        let url = format!("http://127.0.0.1:{OUTBOUND_PORT}/");
        Ok(Running { url, sides: Some(sides), proof: Some(proof), beside: None })
    }
}
