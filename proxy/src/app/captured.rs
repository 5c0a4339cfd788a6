//! Keeps traffic captured as the configuration and the snapshot say, whatever others do to the rules.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{self, InboundCapture, Mode, OnStop, UdpCapture};
use crate::dns::host_resolvers;
use crate::reason::Reason;
use crate::redirect::{Applied, Capture, CaptureError, Changes, InboundPorts, Iptables, Plan, Protection, Scope, Udp};
use crate::state::{Enforcement, Mesh};
use crate::telemetry::{Direction, Metrics};

use super::known_ports::KnownPorts;
use super::{Listening, Parts};

pub(super) struct Captured {
    rules: Rules,
    scope: Scope,
    /// Where only the services' ports are captured.
    known: Option<KnownPorts>,
    metrics: Metrics,
    parts: Arc<Parts>,
    on_stop: OnStop,
    /// Whether iptables may be used where nf_tables is not to be had.
    fallback: bool,
    applied: Option<Plan>,
    /// What the configuration says of UDP; EgressPolicies may say more.
    udp: Udp,
    /// Where DNS may go, as the configuration names them.
    resolvers: Vec<IpAddr>,
    /// Packets that the rules had dropped at the last look.
    udp_dropped: u64,
    /// When it was heard that somebody, perhaps we ourselves, changed the rules.
    heard: Option<Instant>,
}

enum Rules {
    Nftables(Capture, Changes),
    Iptables(Iptables),
}

impl Captured {
    /// Nothing where nothing is to be captured. Changes nothing yet.
    pub(super) fn open(parts: &Arc<Parts>, listening: Listening) -> Result<Option<Captured>, CaptureError> {
        let config = &parts.config.capture;
        let fallback = config.mode == Mode::Auto;
        let rules = match config.mode {
            Mode::None => return Ok(None),
            Mode::Iptables => Rules::Iptables(Iptables::find()?),
            Mode::Auto | Mode::Nftables => match nftables() {
                Err(CaptureError::Unsupported(error)) if fallback => iptables_instead(&error)?,
                rules => rules?,
            },
        };
        let scope = scope(config, listening);
        Ok(Some(Captured {
            rules,
            udp: scope.udp.clone(),
            resolvers: config.resolvers.clone(),
            udp_dropped: 0,
            scope,
            known: (config.inbound == InboundCapture::Services)
                .then(|| KnownPorts::load(parts.config.state_dir.as_deref())),
            metrics: parts.metrics.clone(),
            parts: parts.clone(),
            on_stop: config.on_stop,
            fallback,
            applied: None,
            heard: None,
        }))
    }

    /// Makes the rules what they should be. What cannot be done leaves them as they were.
    pub(super) fn look(&mut self, mesh: &Mesh) -> Result<(), CaptureError> {
        if let Some(known) = &mut self.known {
            // Before the control plane has said anything: what was known last; where nothing is, any port may be one.
            if mesh.version > 0 {
                let mut now: Vec<u16> = mesh.inbound().ports().map(|port| port.port).collect();
                now.sort_unstable();
                known.set(&now);
            }
            self.scope.inbound = known.ports().map_or(InboundPorts::All, |ports| InboundPorts::Only(ports.to_vec()));
        }
        self.scope.udp = self.udp_now(mesh);
        let plan = Plan::new(&self.scope);
        // With nf_tables every change is heard; without one the rules are as we left them.
        let told = matches!(self.rules, Rules::Nftables(..)) && self.heard.is_none();
        if told && self.applied.as_ref() == Some(&plan) {
            return self.count_udp();
        }
        let heard = self.heard.unwrap_or_else(Instant::now);
        let applied = match self.apply(&plan) {
            Err(CaptureError::Unsupported(error)) if self.fallback && self.applied.is_none() => {
                self.rules = iptables_instead(&error)?;
                self.apply(&plan)
            }
            applied => applied,
        };
        // What failed is tried again at the next look, as long as it takes.
        self.heard = applied.is_err().then_some(heard);
        let applied = applied?;
        let disturbed = applied != Applied::AsItWas && self.applied.as_ref() == Some(&plan);
        if disturbed {
            let exposed = heard.elapsed();
            self.metrics.capture_restored(exposed);
            tracing::warn!(
                exposed_ms = exposed.as_secs_f64() * 1000.0,
                "another program changed the capture rules; they are back, and what was sent meanwhile was not captured"
            );
        } else if self.applied.is_none() {
            self.tell_first(applied, mesh.version);
        }
        self.applied = Some(plan);
        // The counters begin anew with the rules.
        self.udp_dropped = 0;
        self.count_udp()
    }

    /// UDP cannot be looked into: where egress is denied by default, or TLS only, none leaves but DNS to the resolvers,
    /// whom the configuration names, else the Site, else this host. So it is, as for TCP, before anybody has said what may
    /// leave: a restart opens nothing.
    fn udp_now(&self, mesh: &Mesh) -> Udp {
        let enforced = mesh.enforcement() == Enforcement::Enforce;
        let restricted = enforced && (!mesh.is_ready() || mesh.egress().restricts_udp());
        if !restricted || self.udp != Udp::Pass {
            return self.udp.clone();
        }
        let resolvers = match (self.resolvers.as_slice(), mesh.resolvers()) {
            ([], []) => host_resolvers(),
            ([], of_site) => of_site.to_vec(),
            (configured, _) => configured.to_vec(),
        };
        Udp::Drop { resolvers }
    }

    fn count_udp(&mut self) -> Result<(), CaptureError> {
        if self.scope.udp != Udp::Pass
            && let Rules::Nftables(capture, _) = &mut self.rules
        {
            let dropped = capture.dropped_udp()?;
            self.metrics.capture_udp_dropped(dropped);
            let more = dropped.saturating_sub(std::mem::replace(&mut self.udp_dropped, dropped));
            if more > 0 {
                self.metrics.refused_times(Reason::Udp, Direction::Outbound, more);
                tracing::info!(
                    reason = Reason::Udp.word(),
                    packets = more,
                    "refused: UDP cannot be looked into, and egress is denied by default or TLS only, or not known yet; DNS to \
                     the resolvers leaves, and what capture excludes"
                );
            }
        }
        Ok(())
    }

    /// Ends when somebody changed the rules. With iptables nobody tells; there the next look finds it.
    pub(super) async fn disturbed(&mut self) {
        match &mut self.rules {
            Rules::Nftables(_, changes) => changes.next().await,
            Rules::Iptables(_) => std::future::pending().await,
        }
        self.heard = Some(Instant::now());
    }

    /// Leaves the rules, so that nothing passes in plain until a proxy runs again; or takes them away, where the
    /// configuration says so or somebody stopped the proxy by hand.
    pub(super) fn end(self, by_hand: bool) {
        if self.on_stop == OnStop::Keep && !by_hand {
            return tracing::info!(
                "the capture rules stay (capture.onStop): what they capture is refused until a proxy runs again, or \
                 until: isthmus redirect remove"
            );
        }
        let removed = match self.rules {
            Rules::Nftables(mut capture, _) => capture.remove(),
            Rules::Iptables(iptables) => iptables.remove(),
        };
        if let Err(error) = removed {
            tracing::error!(%error, "the capture rules stay; remove them with: isthmus redirect remove");
        }
    }

    fn apply(&mut self, plan: &Plan) -> Result<Applied, CaptureError> {
        match &mut self.rules {
            Rules::Nftables(capture, _) => capture.apply(plan),
            Rules::Iptables(iptables) => iptables.apply(plan),
        }
    }

    fn tell_first(&self, applied: Applied, version: u64) {
        self.parts.captured_by.get_or_init(|| match self.rules {
            Rules::Nftables(..) => "nftables",
            Rules::Iptables(_) => "iptables",
        });
        if applied != Applied::New {
            tracing::info!("the capture rules of an earlier proxy were in force until now and are taken over");
        }
        if let Rules::Nftables(capture, _) = &self.rules
            && capture.protection() == Protection::Unowned
        {
            tracing::warn!(
                "this kernel cannot protect the capture rules (Linux 6.9 can): when another program flushes them they are \
                 put back at once, and isthmus_capture_exposed_seconds_total tells for how long they were gone"
            );
        }
        let Some(known) = self.known.as_ref().filter(|_| version == 0) else { return };
        match known.ports() {
            Some(ports) => {
                tracing::info!(
                    ?ports,
                    "until the control plane tells the services' ports, those known last are captured"
                );
            }
            None => tracing::warn!(
                excluded = ?self.scope.exclude_inbound_ports,
                "until the control plane tells the services' ports for the first time, every inbound port but those \
                 excluded is captured, and refused (not-ready)"
            ),
        }
    }
}

fn nftables() -> Result<Rules, CaptureError> {
    let capture = Capture::open(Protection::Owned)?;
    // Before anything is applied, so that no change is missed.
    Ok(Rules::Nftables(capture, Changes::open()?))
}

fn iptables_instead(error: &impl std::fmt::Display) -> Result<Rules, CaptureError> {
    tracing::warn!(%error, "this kernel has no nf_tables that can capture: iptables is used instead");
    Iptables::find().map(Rules::Iptables)
}

fn scope(config: &config::Capture, listening: Listening) -> Scope {
    Scope {
        own_ports: [listening.mesh, listening.metrics, listening.readiness].map(|address| address.port()).to_vec(),
        inbound: match config.inbound {
            InboundCapture::All => InboundPorts::All,
            // Set at each look.
            InboundCapture::Services => InboundPorts::Only(Vec::new()),
        },
        exclude_inbound_ports: config.exclude_inbound_ports.clone(),
        include_outbound_ports: config.include_outbound_ports.clone(),
        exclude_outbound_ports: config.exclude_outbound_ports.clone(),
        include_outbound_cidrs: config.include_outbound_cidrs.clone(),
        exclude_outbound_cidrs: config.exclude_outbound_cidrs.clone(),
        include_uids: config.include_uids.clone(),
        exclude_uids: config.exclude_uids.clone(),
        udp: match config.udp {
            UdpCapture::Pass => Udp::Pass,
            UdpCapture::Drop => Udp::Drop { resolvers: config.resolvers.clone() },
        },
        ..Scope::all(config.exempt, listening.outbound.port(), listening.inbound.port())
    }
}
