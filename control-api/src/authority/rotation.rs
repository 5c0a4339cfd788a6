//! A change of roots, with proof. Each step looks at every live certificate and every proxy first, and refuses to go on
//! while anybody would be cut off, naming who.
//!
//! start: the new root is in every bundle → promote, once every proxy has acknowledged that → certificates come from the
//! new root as they are renewed → retire, once none of the old one is alive. abort goes back at any time before that.

use super::{Authorities, Other, Own, Role, shared, write_operator};
use crate::audit::{Event, What};
use crate::identity::issuer::Issuer;
use crate::identity::register::Holding;
use crate::identity::revocation;
use crate::index::Issuing;
use crate::ledger::Ledger;
use crate::push::registry::{Proxy, Registry};
use crate::store::{TokenRecord, TokenState};
use isthmus_certs::{CertificateAuthority, Clock, RootFingerprint};
use isthmus_proto::admin::v1 as wire;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A tenth of what one core signs and logs, with a line on disk for each.
const RENEWALS_PER_SECOND: u64 = 50;
/// A mesh of three is done while the operator watches.
const SHORTEST_SPREAD: Duration = Duration::from_secs(5);
/// 20,000 certificates are done in 7 minutes; no mesh waits longer than this.
const LONGEST_SPREAD: Duration = Duration::from_secs(600);

#[cfg(test)]
#[path = "rotation_test.rs"]
mod rotation_test;

/// Carries the steps out.
pub struct Rotation {
    own: Arc<Own>,
    ledger: Arc<Ledger>,
    registry: Arc<Registry>,
    state_dir: PathBuf,
    /// Of the operators' port, as `operator.yaml` says it.
    address: String,
    /// The revision that carries the present roots. A proxy that connects after a restart is sent everything anew, so what
    /// this process began with counts.
    carried_by: AtomicU64,
}

/// What the guards look at.
pub struct Seen {
    pub now_ms: i64,
    pub carried_by: u64,
    pub holdings: Vec<Holding>,
    pub proxies: BTreeMap<String, Proxy>,
    pub tokens: Vec<TokenRecord>,
}

impl Rotation {
    pub fn new(
        own: Arc<Own>,
        ledger: Arc<Ledger>,
        registry: Arc<Registry>,
        state_dir: PathBuf,
        address: String,
    ) -> Self {
        let carried_by = AtomicU64::new(ledger.world().revision);
        Rotation { own, ledger, registry, state_dir, address, carried_by }
    }

    /// Carries out one step, or none. Waits for the disk.
    pub fn step(&self, step: wire::RotationStep, force: bool, operator: &str) -> Result<wire::RotateResponse, String> {
        let authorities = self.own.authorities();
        let not_yet = self.not_yet();
        if step != wire::RotationStep::Unspecified {
            self.must_lead()?;
        }
        let guarded = matches!(step, wire::RotationStep::Promote | wire::RotationStep::Retire);
        match (step, authorities.other().map(|other| other.role)) {
            (wire::RotationStep::Unspecified, _) => return Ok(self.status()),
            (wire::RotationStep::Start, _) => authorities.start()?,
            (_, None) => return Err("no rotation is under way; `isthmus ca rotate start` begins one".to_string()),
            (wire::RotationStep::Promote, Some(Role::Leaving)) => {
                return Err("the new root issues already; `isthmus ca rotate retire` comes next".to_string());
            }
            (wire::RotationStep::Retire, Some(Role::Coming)) => {
                return Err("the new root does not issue yet; `isthmus ca rotate promote` comes first".to_string());
            }
            _ if guarded && !force && !not_yet.is_empty() => {
                return Ok(wire::RotateResponse { refused: true, ..self.status() });
            }
            (wire::RotationStep::Promote, _) | (wire::RotationStep::Abort, Some(Role::Leaving)) => {
                authorities.exchange()?
            }
            (wire::RotationStep::Retire, _) | (wire::RotationStep::Abort, _) => authorities.drop_other()?,
        }
        let cut_off = if guarded && force { not_yet.join("; ") } else { String::new() };
        self.follow(step.as_str_name(), operator, cut_off)?;
        Ok(self.status())
    }

    /// Takes an intermediate of a company's own PKI: the same as `start`, with a root from elsewhere.
    pub fn import(&self, chain: &[CertificateDer<'static>], operator: &str) -> Result<wire::RotateResponse, String> {
        self.must_lead()?;
        self.own.authorities().import(chain)?;
        self.follow("IMPORT", operator, String::new())?;
        Ok(self.status())
    }

    /// What follows from other roots: our own leaf, what every proxy is told, the operator's file, the record.
    fn follow(&self, step: &str, operator: &str, cut_off: String) -> Result<(), String> {
        let authorities = self.own.authorities();
        self.share()?;
        let bundle = authorities.bundle();
        let roots_der = bundle.roots().iter().map(|root| root.to_vec()).collect();
        let issuing = issuing(&self.own.issuer, self.ledger.clock().now_ms());
        let told = self.ledger.retrust(|trust| {
            trust.roots_der = roots_der;
            trust.issuing = issuing;
        });
        let revision = told.map_err(|error| error.to_string())?;
        self.carried_by.store(revision, Ordering::SeqCst);
        self.own.renew()?;
        if self.ledger.trust().revocations.epoch > 0 {
            // What the old root's leaf has signed proves nothing once that root is gone.
            revocation::publish(&self.ledger, &self.own.store).map_err(|error| error.to_string())?;
        }
        write_operator(&self.own.issuer, &self.state_dir, &self.address, &**self.ledger.clock())?;
        let event = Event {
            what: What::Authority,
            proof: step.to_string(),
            root: fingerprint(&authorities.active()),
            operator: operator.to_string(),
            reason: if cut_off.is_empty() { cut_off } else { format!("forced; cut off: {cut_off}") },
            ..Event::default()
        };
        self.own.issuer.audit().append(event).map(drop).map_err(|error| error.to_string())
    }

    /// One at a time changes the CA of several control planes.
    fn must_lead(&self) -> Result<(), String> {
        let store = self.ledger.store();
        if store.leads() {
            return Ok(());
        }
        let leader = store.replicas().and_then(|replicas| replicas.leader()).unwrap_or("none yet".to_string());
        Err(format!("another control plane leads ({leader}): take this step there, with --address"))
    }

    /// The others get the files before they are told of the roots. If that is refused, nothing was changed.
    fn share(&self) -> Result<(), String> {
        let store = &**self.ledger.store();
        if !store.is_shared() {
            return Ok(());
        }
        shared::publish(store, &self.state_dir).map_err(|error| {
            let back = shared::fetch(store, &self.state_dir).and_then(|_| self.own.authorities().reload());
            match back {
                Ok(()) => format!("nothing was changed: {error}"),
                Err(back) => format!("{error}; and going back failed: {back}; restart this control plane"),
            }
        })
    }

    pub fn status(&self) -> wire::RotateResponse {
        let authorities = self.own.authorities();
        let not_yet = self.not_yet();
        let safe = not_yet.is_empty();
        let (phase, next) = match (authorities.other().map(|other| other.role), safe) {
            (None, _) => ("settled", "nothing to do"),
            (Some(Role::Coming), true) => ("distributing", "everybody trusts the new root: isthmus ca rotate promote"),
            (Some(Role::Coming), false) => ("distributing", "wait until everybody trusts the new root, or abort"),
            (Some(Role::Leaving), true) => ("issuing", "nobody hangs on the old root: isthmus ca rotate retire"),
            (Some(Role::Leaving), false) => ("issuing", "wait until nobody hangs on the old root; it goes by itself"),
        };
        let mut next = next.to_string();
        if phase == "distributing" && self.ledger.world().resources.of_kind("TrustDomain", None).next().is_some() {
            // Whether another mesh has our new root, nobody here can see.
            next.push_str("; other meshes that believe this one need `isthmus ca bundle` again before promote");
        }
        wire::RotateResponse { phase: phase.to_string(), roots: roots(authorities), not_yet, next, refused: false }
    }

    fn not_yet(&self) -> Vec<String> {
        let Some(other) = self.own.authorities().other() else {
            return Vec::new();
        };
        let now_ms = self.ledger.clock().now_ms();
        let tokens = match self.ledger.store().tokens() {
            Ok(tokens) => tokens,
            Err(error) => return vec![format!("the store cannot say which join tokens there are: {error}")],
        };
        let seen = Seen {
            now_ms,
            carried_by: self.carried_by.load(Ordering::SeqCst),
            holdings: self.own.issuer.register().live(now_ms),
            proxies: self.registry.everywhere(now_ms).into_iter().map(|(name, (_, proxy))| (name, proxy)).collect(),
            tokens,
        };
        match other.role {
            Role::Coming => without_the_new_root(&seen),
            Role::Leaving => on_the_old_root(&seen, &fingerprint(&other.authority)),
        }
    }
}

/// What proxies are told of who issues. Holders of certificates of another root renew by themselves, spread over a time in
/// which this control plane issues for all of them without hurry.
pub fn issuing(issuer: &Issuer, now_ms: i64) -> Issuing {
    let root = RootFingerprint::of(issuer.authorities().active().root());
    let live = u64::try_from(issuer.register().live(now_ms).len()).unwrap_or(u64::MAX);
    let within = Duration::from_secs(live / RENEWALS_PER_SECOND).clamp(SHORTEST_SPREAD, LONGEST_SPREAD);
    Issuing { root: Some(*root.as_bytes()), renew_within: within }
}

/// Whom a certificate of the new root would meet unprepared.
pub fn without_the_new_root(seen: &Seen) -> Vec<String> {
    let mut names: BTreeMap<&str, Option<&Holding>> = BTreeMap::new();
    for proxy in seen.proxies.values().filter(|proxy| proxy.connected) {
        names.insert(&proxy.workload, None);
    }
    for holding in seen.holdings.iter().filter(|holding| !holding.workload.is_empty()) {
        names.insert(&holding.workload, Some(holding));
    }
    let missing = names.into_iter().filter_map(|(workload, holding)| {
        let proxy = seen.proxies.get(workload);
        let why = match proxy {
            Some(proxy) if proxy.acked >= seen.carried_by => return None,
            Some(proxy) if proxy.nacked >= seen.carried_by => format!("refused the push: {}", proxy.last_error),
            Some(proxy) if proxy.connected => "connected, has not acknowledged it yet".to_string(),
            Some(proxy) => format!("offline, last seen {}", time(proxy.last_seen_unix_ms)),
            None => "offline since this control plane started".to_string(),
        };
        let until = holding.map(|holding| format!(", certificate until {}", until(holding))).unwrap_or_default();
        Some(format!("{workload}: {why}{until}"))
    });
    missing.collect()
}

/// Who would be refused everywhere, or could not come in, without the old root.
pub fn on_the_old_root(seen: &Seen, old: &str) -> Vec<String> {
    let ours = |holding: &&Holding| holding.root == old && !holding.who.ends_with("/ns/isthmus-system/sa/control");
    let mut hanging: Vec<String> = seen.holdings.iter().filter(ours).map(|holding| hangs(seen, holding)).collect();
    for token in &seen.tokens {
        if token.state == TokenState::Unused && token.expires_unix_ms > seen.now_ms {
            let (id, until) = (&token.id, time(token.expires_unix_ms));
            hanging.push(format!("join token {id} for {}: names the old root, good until {until}", token.workload));
        }
    }
    hanging.sort();
    hanging
}

fn hangs(seen: &Seen, holding: &Holding) -> String {
    let name = if holding.workload.is_empty() { &holding.who } else { &holding.workload };
    let until = until(holding);
    match seen.proxies.get(&holding.workload) {
        Some(proxy) if proxy.connected => {
            format!("{name}: certificate of the old root until {until}, renews by itself")
        }
        Some(proxy) => {
            format!(
                "{name}: certificate of the old root until {until}; offline, last seen {}",
                time(proxy.last_seen_unix_ms)
            )
        }
        None => format!("{name}: certificate of the old root until {until}"),
    }
}

fn until(holding: &Holding) -> String {
    time(i64::try_from(holding.not_after_unix_s).unwrap_or(i64::MAX / 1000).saturating_mul(1000))
}

fn time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

pub(crate) fn fingerprint(authority: &CertificateAuthority) -> String {
    RootFingerprint::of(authority.root()).to_string()
}

pub(crate) fn roots(authorities: &Authorities) -> Vec<wire::Root> {
    let root = |authority: &CertificateAuthority, role: &str| wire::Root {
        fingerprint: fingerprint(authority),
        not_after_unix_ms: i64::try_from(authority.root_not_after().as_secs()).unwrap_or(0).saturating_mul(1000),
        role: role.to_string(),
        issuing_not_after_unix_ms: i64::try_from(authority.issuing_not_after().as_secs()).unwrap_or(0) * 1000,
        self_rooted: authority.is_self_rooted(),
        der: authority.root().to_vec(),
    };
    let other = authorities
        .other()
        .map(|Other { authority, role, .. }| root(&authority, if role == Role::Coming { "coming" } else { "leaving" }));
    [Some(root(&authorities.active(), "active")), other].into_iter().flatten().collect()
}
