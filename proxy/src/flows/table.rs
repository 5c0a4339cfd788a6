//! One worker's counts. A decision that was made before in the same way costs a hash and a comparison; a new way costs an
//! allocation, until there are so many that new ones are counted with less detail, and then not at all.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use isthmus_certs::SpiffeId;

use super::template::{PathId, Templates};
use crate::reason::Reason;
use crate::state::policy::Arrived;

/// Ways of one worker that are told apart in full.
pub const MOST_KEYS: usize = 4_096;
/// Further ones without address and path.
const MOST_COARSE: usize = 512;
/// Methods beyond the usual ones.
const MOST_METHODS: usize = 32;
const USUAL: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];
/// What no method or host is called: too many, or too long.
pub const OTHER: &str = "other";
const LONGEST_HOST: usize = 253;
/// Hand-overs that a way may go without being seen before its place is given to others.
const IDLE: u32 = 60;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Allowed,
    Refused,
    /// It passed, and would be refused if it were enforced.
    WouldRefuse,
}

/// Which way it goes, as the app sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// To the app.
    In,
    /// From the app out of the mesh, after its first bytes were looked at.
    Out,
    /// The same, and nothing of it was read.
    OutUnread,
}

/// One decision, borrowed from the path.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    pub way: Way,
    pub peer: Option<&'a SpiffeId>,
    /// The caller's; of what leaves, where the app sent it.
    pub ip: IpAddr,
    /// The app's; of what leaves, where the app sent it.
    pub port: u16,
    pub arrived: Arrived,
    pub method: Option<&'a str>,
    pub path: Option<&'a str>,
    /// Where some rule asks for it; of what leaves, always.
    pub host: Option<&'a str>,
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    pub policy: Option<&'a str>,
    pub rule: Option<u32>,
    pub audit: Option<(Reason, Option<&'a str>)>,
}

/// What decisions have in common that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub way: Way,
    pub peer: Option<SpiffeId>,
    /// `None`: too many to tell apart.
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub arrived: Arrived,
    pub method: Option<Box<str>>,
    /// A template.
    pub path: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    pub policy: Option<Box<str>>,
    pub rule: Option<u32>,
    pub audit: Option<(Reason, Option<Box<str>>)>,
}

/// The counts.
#[derive(Default)]
pub struct FlowTable {
    entries: HashTable<Entry>,
    templates: Templates,
    methods: Vec<Box<str>>,
    dropped: u64,
    hasher: RandomState,
}

struct Entry {
    hash: u64,
    path: Option<PathId>,
    key: Arc<FlowKey>,
    /// Since the last hand-over.
    count: u64,
    idle: u32,
}

/// What was counted since the last hand-over.
#[derive(Debug, Default)]
pub struct Drained {
    pub counts: Vec<(Arc<FlowKey>, u64)>,
    /// Decisions that found no place at all.
    pub dropped: u64,
}

impl FlowTable {
    /// Counts one decision.
    pub fn record(&mut self, observed: &Observed<'_>) {
        let path = observed.path.map(|path| self.templates.of(path));
        let method = observed.method.map(|method| self.method(method));
        let seen = Seen { observed, method, ip: Some(observed.ip), path };
        if self.count(&seen) || self.insert(&seen, MOST_KEYS) {
            return;
        }
        // Full: still by whom and with what result, but not from where and to which path.
        let path = path.map(|_| Templates::other());
        let seen = Seen { ip: None, path, ..seen };
        if !self.count(&seen) && !self.insert(&seen, MOST_KEYS + MOST_COARSE) {
            self.dropped += 1;
        }
    }

    fn count(&mut self, seen: &Seen<'_>) -> bool {
        let hash = seen.hash(&self.hasher);
        match self.entries.find_mut(hash, |entry| entry.hash == hash && seen.is(entry)) {
            Some(entry) => {
                entry.count += 1;
                true
            }
            None => false,
        }
    }

    fn insert(&mut self, seen: &Seen<'_>, most: usize) -> bool {
        if self.entries.len() >= most {
            return false;
        }
        let hash = seen.hash(&self.hasher);
        let key = Arc::new(seen.key(&self.templates));
        self.entries.insert_unique(hash, Entry { hash, path: seen.path, key, count: 1, idle: 0 }, |entry| entry.hash);
        true
    }

    /// An app may be sent any token as a method: beyond some they are one.
    fn method<'a>(&mut self, method: &'a str) -> &'a str {
        if USUAL.contains(&method) || self.methods.iter().any(|known| **known == *method) {
            return method;
        }
        if self.methods.len() >= MOST_METHODS || method.len() > 32 {
            return OTHER;
        }
        self.methods.push(method.into());
        method
    }

    /// Takes the counts, keeps the ways: what is seen again costs no allocation.
    pub fn drain(&mut self) -> Drained {
        let mut counts = Vec::new();
        self.entries.retain(|entry| {
            if entry.count > 0 {
                counts.push((Arc::clone(&entry.key), std::mem::take(&mut entry.count)));
                entry.idle = 0;
            } else {
                entry.idle += 1;
            }
            entry.idle < IDLE
        });
        Drained { counts, dropped: std::mem::take(&mut self.dropped) }
    }
}

/// A decision with what is left of its path and method.
#[derive(Clone, Copy)]
struct Seen<'a> {
    observed: &'a Observed<'a>,
    method: Option<&'a str>,
    ip: Option<IpAddr>,
    path: Option<PathId>,
}

impl Seen<'_> {
    fn host(&self) -> Option<&str> {
        self.observed.host.map(|host| if host.len() > LONGEST_HOST { OTHER } else { host })
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        let o = self.observed;
        let mut hasher = hasher.build_hasher();
        hasher.write(o.peer.map_or("", |peer| peer.as_str()).as_bytes());
        match self.ip {
            Some(IpAddr::V4(ip)) => hasher.write_u32(ip.to_bits()),
            Some(IpAddr::V6(ip)) => hasher.write_u128(ip.to_bits()),
            None => hasher.write_u8(0),
        }
        hasher.write(self.method.unwrap_or_default().as_bytes());
        let word = (o.way as u64) << 56 | u64::from(o.port) << 40 | u64::from(o.rule.map_or(0, |rule| rule + 1));
        hasher.write_u64(word ^ (o.verdict as u64) << 60 ^ (o.reason.map_or(0, |r| r.index() as u64 + 1) << 33));
        hasher.write_u32(self.path.unwrap_or(u32::MAX - 2));
        hasher.write(o.policy.unwrap_or_default().as_bytes());
        if let Some(host) = self.host() {
            hasher.write(host.as_bytes());
        }
        hasher.finish()
    }

    fn is(&self, entry: &Entry) -> bool {
        let (o, key) = (self.observed, &*entry.key);
        entry.path == self.path
            && key.way == o.way
            && key.port == o.port
            && key.ip == self.ip
            && key.verdict == o.verdict
            && key.arrived == o.arrived
            && key.reason == o.reason
            && key.rule == o.rule
            && key.peer.as_ref() == o.peer
            && key.method.as_deref() == self.method
            && key.policy.as_deref() == o.policy
            && key.host.as_deref() == self.host()
            && key.audit.as_ref().map(|(reason, policy)| (*reason, policy.as_deref())) == o.audit
    }

    fn key(&self, templates: &Templates) -> FlowKey {
        let o = self.observed;
        FlowKey {
            way: o.way,
            peer: o.peer.cloned(),
            ip: self.ip,
            port: o.port,
            arrived: o.arrived,
            method: self.method.map(Into::into),
            path: self.path.map(|path| templates.text(path).into()),
            host: self.host().map(Into::into),
            verdict: o.verdict,
            reason: o.reason,
            policy: o.policy.map(Into::into),
            rule: o.rule,
            audit: o.audit.map(|(reason, policy)| (reason, policy.map(Into::into))),
        }
    }
}

#[cfg(test)]
#[path = "table_test.rs"]
mod table_test;
