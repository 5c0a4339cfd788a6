//! Who is measured. Each contender is a caller's proxy and a callee's proxy with one worker thread each, TLS 1.3 with
//! client certificates between them, logs off; or, where one hop is asked for, a caller's proxy alone and no TLS.

mod envoy;
mod haproxy;
pub(crate) mod isthmus;
pub(crate) mod linkerd;
mod nginx;
mod ztunnel;

use std::net::SocketAddr;

use clap::ValueEnum;
use isthmus_world::Process;

use self::isthmus::Traced;
use crate::certificates::Certificates;
use crate::mutual_tls::{self, Asked, Proof};
use crate::programs::Programs;
use crate::rounds::Turn;
use crate::stage::{APP_PORT, Stage, Traffic};

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
    /// The same with nothing traced, and nobody to send it to.
    IsthmusOff,
    /// The same with every request traced.
    IsthmusAll,
    /// The same without a collector: the control plane keeps a few traces a second.
    IsthmusKept,
    /// HTTP/2 between the two.
    HaproxyH2,
    /// HTTP/1.1 between the two.
    HaproxyH1,
    /// One hop; or TCP over TLS, one connection for each of the app's.
    Haproxy,
    /// HTTP/2 between the two.
    EnvoyH2,
    /// One hop; or TCP over TLS.
    Envoy,
    /// HTTP/1.1 between the two.
    NginxH1,
    /// One hop.
    Nginx,
    /// HBONE between the two, whatever the app speaks.
    Ztunnel,
    /// HTTP/2 between the two, or TCP over TLS.
    Linkerd2Proxy,
}

/// What is to be carried, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) traffic: Traffic,
    pub(crate) hops: Hops,
    /// Of ours; the peers have one.
    pub(crate) workers: usize,
}

/// How many proxies are on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hops {
    /// The caller's only: plain in, plain out.
    One,
    /// Caller's and callee's, mTLS between.
    Pair,
}

impl Setting {
    /// A pair with one worker each.
    pub(crate) const fn pair(traffic: Traffic) -> Self {
        Self { traffic, hops: Hops::Pair, workers: 1 }
    }
}

/// What a peer's two proxies speak with each other, or one speaks with the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Http1,
    Http2,
    Bytes,
}

/// Where a peer's proxies listen and go.
#[derive(Debug, Clone, Copy)]
struct Plan {
    setting: Setting,
    between: Between,
    outbound: SocketAddr,
    /// The callee's proxy; the app itself where there is but one hop.
    next: SocketAddr,
    app: SocketAddr,
}

/// A contender that is up and has proved that it demands client certificates.
pub(crate) struct Running {
    /// What the load connects to.
    pub(crate) target: SocketAddr,
    /// The caller's, then the callee's; none for [`Peer::Direct`].
    pub(crate) proxies: Vec<Process>,
    /// The proof that it demands client certificates.
    pub(crate) proof: Option<Proof>,
    /// What must live as long, such as a control plane; its use is not counted.
    pub(crate) beside: Option<isthmus::Beside>,
    /// Control planes of a peer, which must live as long too.
    pub(crate) control: Vec<Process>,
}

impl Running {
    fn direct(stage: &Stage) -> Self {
        Self::on(stage.hosts.server.socket(APP_PORT), Vec::new())
    }

    /// Not proved yet.
    fn on(target: SocketAddr, proxies: Vec<Process>) -> Self {
        Self { target, proxies, proof: None, beside: None, control: Vec::new() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.target)
    }

    /// What the proxies said last goes with an error.
    pub(crate) fn explain(&self, error: String) -> String {
        let said = |proxy: &Process| format!("\n{} said last:\n{}", proxy.label(), proxy.last_lines());
        error + &self.proxies.iter().chain(&self.control).map(said).collect::<String>()
    }

    /// After the load: how it protected itself, in words.
    pub(crate) fn add_facts(&self, turn: &mut Turn) {
        let Some(proof) = &self.proof else { return };
        turn.facts.insert("without_certificate", proof.stranger.clone());
        if let Some(plaintext) = &proof.plaintext {
            turn.facts.insert("in_plaintext", plaintext.clone());
        }
        if let Some(handshake) = &proof.handshake {
            turn.facts.insert("probe_cipher", handshake.cipher.clone());
            turn.facts.insert("probe_group", handshake.group.clone());
        }
    }
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Isthmus => "isthmus",
            Self::IsthmusOff => "isthmus-off",
            Self::IsthmusAll => "isthmus-all",
            Self::IsthmusKept => "isthmus-kept",
            Self::HaproxyH2 => "haproxy-h2",
            Self::HaproxyH1 => "haproxy-h1",
            Self::Haproxy => "haproxy",
            Self::EnvoyH2 => "envoy-h2",
            Self::Envoy => "envoy",
            Self::NginxH1 => "nginx-h1",
            Self::Nginx => "nginx",
            Self::Ztunnel => "ztunnel",
            Self::Linkerd2Proxy => "linkerd2-proxy",
        }
    }

    /// Starts it on a stage and makes sure of its client certificates.
    pub(crate) fn start(
        self,
        programs: &Programs,
        certificates: &Certificates,
        stage: &Stage,
        setting: Setting,
    ) -> Result<Running, String> {
        let program = programs.of(self).ok_or("its program is missing")?;
        let plan = self.plan(stage, setting);
        let proxies = match self {
            Self::Direct => return Ok(Running::direct(stage)),
            Self::Isthmus => return isthmus::start(program, stage, setting, Traced::Percent),
            Self::IsthmusOff => return isthmus::start(program, stage, setting, Traced::Nothing),
            Self::IsthmusAll => return isthmus::start(program, stage, setting, Traced::Everything),
            Self::IsthmusKept => return isthmus::start(program, stage, setting, Traced::Kept),
            Self::Ztunnel => return ztunnel::start(program, stage, &plan),
            Self::Linkerd2Proxy => return linkerd::start(program, certificates, stage, &plan),
            Self::HaproxyH2 | Self::HaproxyH1 | Self::Haproxy => haproxy::start(program, certificates, stage, &plan)?,
            Self::EnvoyH2 | Self::Envoy => envoy::start(program, certificates, stage, &plan)?,
            Self::NginxH1 | Self::Nginx => nginx::start(program, certificates, stage, &plan)?,
        };
        let mut running = Running::on(plan.outbound, proxies);
        if setting.hops == Hops::Pair {
            let asked = Asked {
                from: &stage.hosts.client,
                address: plan.next,
                name: &certificates.callee.dns_name,
                speaks: plan.between.into(),
            };
            running.proof =
                Some(mutual_tls::prove(&asked, &certificates.caller).map_err(|error| running.explain(error))?);
        }
        Ok(running)
    }

    fn plan(self, stage: &Stage, setting: Setting) -> Plan {
        let between = match (self, setting.traffic) {
            (_, Traffic::Bytes) => Between::Bytes,
            (Self::HaproxyH2 | Self::EnvoyH2, _) | (_, Traffic::Grpc) => Between::Http2,
            _ => Between::Http1,
        };
        let (loopback, server) = ([127, 0, 0, 1], &stage.hosts.server);
        let (next, app) = match setting.hops {
            Hops::Pair => (server.socket(INBOUND_PORT), (loopback, APP_PORT).into()),
            Hops::One => (server.socket(APP_PORT), server.socket(APP_PORT)),
        };
        Plan { setting, between, outbound: (loopback, OUTBOUND_PORT).into(), next, app }
    }
}

impl From<Between> for mutual_tls::Speaks {
    fn from(between: Between) -> Self {
        match between {
            Between::Http1 => Self::Http1,
            Between::Http2 => Self::Http2,
            Between::Bytes => Self::Echo,
        }
    }
}
