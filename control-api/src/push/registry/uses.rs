//! What proxies use, and how they find endpoints without sidecar: counted here, told to the other control planes by
//! service, and added up for whoever asks. A proxy that goes from one control plane to another may count twice for a moment.
//!
//! What a proxy says counts only for services that it uses, up to [`MOST_PROBED`] endpoints and a reason of [`MAX_REASON`].

use super::proxies::{Entry, Proxies};
use super::{Registry, Seat};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{ResourceKey, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

/// Of one proxy; it probes no more.
const MOST_PROBED: usize = 256;
/// Of a probe's reason.
const MAX_REASON: usize = 200;
/// Of those that find an endpoint down, so many are named; of each control plane, and in all.
const NAMED: usize = 10;

/// One port of an endpoint without sidecar, as one proxy found it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Probed {
    service: ServiceName,
    at: SocketAddr,
    passes: bool,
    since_unix_ms: i64,
    reason: String,
}

/// One service, at one control plane or at all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Use {
    /// Connected proxies.
    pub users: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
}

/// One port of an endpoint without sidecar, as the proxies that use it found it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    pub at: SocketAddr,
    pub up: usize,
    pub down: usize,
    /// The latest moment at which one of them found it up.
    pub up_since_unix_ms: i64,
    /// Some of those that find it down, the first ones first.
    pub down_by: Vec<DownBy>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownBy {
    pub workload: String,
    pub since_unix_ms: i64,
    pub reason: String,
}

impl Use {
    fn add(&mut self, other: &Use) {
        self.users += other.users;
        for theirs in &other.found {
            match self.found.iter_mut().find(|found| found.at == theirs.at) {
                Some(found) => found.add(theirs.clone()),
                None => self.found.push(theirs.clone()),
            }
        }
        self.found.sort_by_key(|found| found.at);
    }
}

impl Found {
    fn of(workload: &str, probed: &Probed) -> Found {
        let Probed { at, passes, since_unix_ms, reason, .. } = probed.clone();
        let down = DownBy { workload: workload.to_string(), since_unix_ms, reason };
        match passes {
            true => Found { at, up: 1, down: 0, up_since_unix_ms: since_unix_ms, down_by: Vec::new() },
            false => Found { at, up: 0, down: 1, up_since_unix_ms: 0, down_by: vec![down] },
        }
    }

    fn add(&mut self, other: Found) {
        self.up += other.up;
        self.down += other.down;
        self.up_since_unix_ms = self.up_since_unix_ms.max(other.up_since_unix_ms);
        self.down_by.extend(other.down_by);
        self.down_by.sort_by(|a, b| (a.since_unix_ms, &a.workload).cmp(&(b.since_unix_ms, &b.workload)));
        self.down_by.truncate(NAMED);
    }
}

/// What can be read of a proxy's own words.
fn read(said: &wire::ProbedEndpoint, now_ms: i64) -> Option<Probed> {
    let ip: IpAddr = said.ip.parse().ok()?;
    Some(Probed {
        service: said.service.parse().ok()?,
        at: SocketAddr::new(ip, u16::try_from(said.port).ok()?),
        passes: said.passes,
        since_unix_ms: now_ms.saturating_sub(i64::try_from(said.for_ms).unwrap_or(i64::MAX)).max(0),
        reason: said.reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect(),
    })
}

impl Seat<'_> {
    /// All that its proxy knows of endpoints without sidecar, in place of what it said before.
    pub fn probed(&self, said: &wire::Probed, now_ms: i64) {
        let read = said.endpoints.iter().take(MOST_PROBED).filter_map(|endpoint| read(endpoint, now_ms));
        let probed: Box<[Probed]> = read.collect();
        self.update(|entry| entry.probed = probed);
    }
}

impl Proxies {
    /// One service, by the proxies that are connected here.
    fn use_of(&self, service: &ServiceName) -> Use {
        let key = ResourceKey::Service(service.clone());
        let mut found = Use::default();
        let users = self.users.get(&key).into_iter().flatten();
        let connected = users.filter_map(|workload| self.all.get(workload)).filter(|entry| entry.proxy.connected);
        for entry in connected {
            found.users += 1;
            found.add(&Use { users: 0, found: found_by(entry, service) });
        }
        found
    }
}

fn found_by(entry: &Entry, service: &ServiceName) -> Vec<Found> {
    let of_it = entry.probed.iter().filter(|probed| probed.service == *service);
    of_it.map(|probed| Found::of(&entry.proxy.workload, probed)).collect()
}

impl Registry {
    /// Who uses a service, and how its endpoints without sidecar are found, at all control planes.
    pub fn use_of(&self, service: &ServiceName) -> Use {
        let mut all = self.proxies().use_of(service);
        for share in self.elsewhere().0.values() {
            if let Some(theirs) = share.uses.get(service.as_str()) {
                all.add(theirs);
            }
        }
        all
    }

    /// Connected proxies that use a service, at all control planes.
    pub fn users(&self, service: &ServiceName) -> usize {
        let elsewhere = self.elsewhere();
        let theirs = elsewhere.0.values().filter_map(|share| share.uses.get(service.as_str()));
        self.proxies().users_of(service) + theirs.map(|theirs| theirs.users).sum::<usize>()
    }

    /// What is used here, for the others.
    pub(super) fn uses(proxies: &Proxies) -> HashMap<String, Use> {
        let services = proxies.users.keys().filter_map(|key| match key {
            ResourceKey::Service(service) => Some(service),
            _ => None,
        });
        let used = services.map(|service| (service.to_string(), proxies.use_of(service)));
        used.filter(|(_, used)| used.users > 0).collect()
    }
}

/// By service, as another control plane wrote it. One that a newer release writes in another way is left out.
pub(crate) fn read_uses(piece: &serde_json::Value) -> BTreeMap<String, Use> {
    let all = piece.as_object().into_iter().flatten();
    all.filter_map(|(service, used)| Some((service.clone(), Deserialize::deserialize(used).ok()?))).collect()
}
