//! What a delta does to the snapshot, and what this proxy asks for. Pure: `stream` carries the answers out.
//!
//! After each (re)connect the view is built aside and swapped once, at the end of the first sync: until then the data
//! path keeps the snapshot it has.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use isthmus_certs::TrustDomain;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Body, Delta, Resource, ResourceKey};

use crate::state::Mesh;

/// Addresses that a proxy may ask for. Each is one that its app has dialled.
const MAX_SUBSCRIBED: usize = 16_384;
/// Of these, addresses that nobody has: an app that scans a range must not fill the table.
const MAX_ABSENT: usize = 1_024;

/// The state of synchronisation.
pub(super) struct Sync {
    workload: String,
    trust_domain: TrustDomain,
    subscribed: HashSet<IpAddr, RandomState>,
    /// Addresses that were absent when last heard of, oldest first. Some may have come to life since.
    absent: VecDeque<IpAddr>,
    resync: Option<Resync>,
}

/// A view that is being built.
struct Resync {
    mesh: Mesh,
    asked_for: Vec<IpAddr>,
    problems: Vec<wire::Problem>,
}

/// What to do after a delta.
pub(super) struct Outcome {
    /// `None`: nothing is in force yet.
    pub(super) publish: Option<Mesh>,
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Ack(wire::Ack),
    Nack(wire::Nack),
}

impl Sync {
    pub(super) fn new(workload: &str, trust_domain: &TrustDomain) -> Self {
        Self {
            workload: workload.to_owned(),
            trust_domain: trust_domain.clone(),
            subscribed: HashSet::default(),
            absent: VecDeque::new(),
            resync: None,
        }
    }

    /// Asks from the start for what an earlier process used.
    pub(super) fn used(&mut self, addresses: Vec<IpAddr>) {
        self.subscribed.extend(addresses.into_iter().take(MAX_SUBSCRIBED));
    }

    /// Begins a new view; returns the keys for `Hello`.
    pub(super) fn begin(&mut self) -> Vec<wire::ResourceKey> {
        let asked_for: Vec<IpAddr> = self.subscribed.iter().copied().collect();
        let keys = asked_for.iter().map(|ip| ResourceKey::Address(*ip).into()).collect();
        self.resync = Some(Resync { mesh: Mesh::unknown(), asked_for, problems: Vec::new() });
        keys
    }

    /// Somebody waits for `ip`. What to send, if anything; and an address to forget, if the table is full.
    pub(super) fn want(&mut self, ip: IpAddr, present: &Mesh) -> Option<(wire::Subscribe, Option<IpAddr>)> {
        let ip = ip.to_canonical();
        if self.subscribed.contains(&ip) {
            return None;
        }
        let full = self.subscribed.len() >= MAX_SUBSCRIBED || self.absent.len() >= MAX_ABSENT;
        let forgotten = if full { self.oldest_absent(present) } else { None };
        if self.subscribed.len() >= MAX_SUBSCRIBED {
            return None;
        }
        self.subscribed.insert(ip);
        let message = wire::Subscribe {
            add: vec![ResourceKey::Address(ip).into()],
            drop: forgotten.map(|old| ResourceKey::Address(old).into()).into_iter().collect(),
        };
        Some((message, forgotten))
    }

    fn oldest_absent(&mut self, present: &Mesh) -> Option<IpAddr> {
        while let Some(ip) = self.absent.pop_front() {
            if present.is_absent(ip) && self.subscribed.remove(&ip) {
                return Some(ip);
            }
        }
        None
    }

    /// Applies a delta: to the view that is being built, or to the present one.
    pub(super) fn take(&mut self, message: wire::Delta, present: &Mesh) -> Outcome {
        let (mut delta, mut problems) = Delta::read(message);
        delta.upserts.retain(|resource| match self.refuse(resource) {
            None => true,
            Some(problem) => {
                problems.push(problem);
                false
            }
        });
        let (version, complete) = (delta.version, delta.first_sync_complete);
        let (gone, withdrawn) = self.split_removals(&mut delta);
        let publish = match self.resync.take() {
            None => {
                let mut next = present.apply(delta);
                withdrawn.into_iter().for_each(|ip| next.forget(ip));
                Some(next)
            }
            Some(mut resync) => {
                resync.mesh = resync.mesh.apply(delta);
                resync.problems.append(&mut problems);
                if !complete {
                    self.resync = Some(resync);
                    return Outcome { publish: None, answer: None };
                }
                problems = resync.problems;
                resync.mesh.complete(resync.asked_for);
                self.absent = self.subscribed.iter().copied().filter(|ip| resync.mesh.is_absent(*ip)).collect();
                Some(resync.mesh)
            }
        };
        self.note_absent(&gone);
        Outcome { publish, answer: Some(answer(version, problems)) }
    }

    /// Addresses that are gone, and (taken out of the delta) those that we are not subscribed to any more: their
    /// removal says nothing about whether somebody has them.
    fn split_removals(&self, delta: &mut Delta) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut gone, mut withdrawn) = (Vec::new(), Vec::new());
        delta.removals.retain(|key| match key {
            ResourceKey::Address(ip) if self.subscribed.contains(&ip.to_canonical()) => {
                gone.push(ip.to_canonical());
                true
            }
            ResourceKey::Address(ip) => {
                withdrawn.push(*ip);
                false
            }
            _ => true,
        });
        (gone, withdrawn)
    }

    fn note_absent(&mut self, gone: &[IpAddr]) {
        let room = MAX_SUBSCRIBED.saturating_sub(self.absent.len());
        self.absent.extend(gone.iter().take(room));
    }

    /// What is not meant for us is not taken, whoever signed it.
    fn refuse(&self, resource: &Resource) -> Option<wire::Problem> {
        let reason = match &resource.body {
            Ok(Body::Mesh(mesh)) if mesh.trust_domain != self.trust_domain => {
                format!("trust_domain: is {}, ours is {}", mesh.trust_domain, self.trust_domain)
            }
            Ok(Body::Inbound(inbound)) if inbound.workload.as_str() != self.workload => {
                format!("workload: is {}, ours is {}", inbound.workload, self.workload)
            }
            _ => return None,
        };
        Some(wire::Problem { key: Some(resource.key.clone().into()), reason })
    }
}

fn answer(version: u64, problems: Vec<wire::Problem>) -> Answer {
    if problems.is_empty() {
        Answer::Ack(wire::Ack { version })
    } else {
        Answer::Nack(wire::Nack { version, problems })
    }
}

#[cfg(test)]
#[path = "sync_test.rs"]
mod sync_test;
