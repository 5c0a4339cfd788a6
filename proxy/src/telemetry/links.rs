//! The kernel's view of our mesh connections: round trip, retransmissions, delivery rate, by the site they lead to. Asked
//! for every few seconds from outside the data path ([`run_link_samples`]); spans and pages read what was found last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_netlink::{TcpDiagnosis, TcpInfo};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the kernel is asked.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Connections that are asked for in one round; about 10 µs each. A proxy has two per peer: what is beyond takes turns.
const MOST_AT_ONCE: usize = 1024;
/// Sites that have series of their own.
const MOST_SITES: usize = 64;

/// What the kernel said last of one connection; 0 where it has not been asked yet.
#[derive(Debug, Default)]
pub struct TcpView {
    rtt_us: AtomicU32,
    retransmitted: AtomicU32,
    delivery_rate: AtomicU64,
}

impl TcpView {
    /// Smoothed round trip in microseconds, segments sent again, bytes delivered per second: once it was asked for.
    pub fn read(&self) -> Option<(u32, u32, u64)> {
        let rtt = self.rtt_us.load(Relaxed);
        (rtt > 0).then(|| (rtt, self.retransmitted.load(Relaxed), self.delivery_rate.load(Relaxed)))
    }
}

/// All mesh connections that this process dialled. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Where the last round ended.
    asked_up_to: u64,
    sites: BTreeMap<Arc<str>, Totals>,
}

#[derive(Debug)]
struct Connection {
    site: Arc<str>,
    local: SocketAddr,
    peer: SocketAddr,
    last: TcpInfo,
    view: Arc<TcpView>,
}

/// Of the connections to one site, those that have ended included.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    sent: u64,
    retransmitted: u64,
    /// Sent and acknowledged, and received.
    bytes: [u64; 2],
}

/// What a page says of one site.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SiteLink {
    pub(super) site: Arc<str>,
    pub(super) sent: u64,
    pub(super) retransmitted: u64,
    pub(super) bytes: [u64; 2],
    /// The smallest and the mean of the smoothed round trips of what is open; nothing where nothing is.
    pub(super) rtt: Option<(Duration, Duration)>,
    pub(super) delivery_rate: u64,
    pub(super) path_mtu: Option<u32>,
}

/// A connection that is looked at for as long as this lives.
#[derive(Debug)]
pub struct WatchedLink {
    links: Links,
    number: u64,
    pub view: Arc<TcpView>,
}

/// Asks the kernel every few seconds, until `stop`.
pub async fn run_link_samples(links: Links, stop: CancellationToken) {
    let mut kernel = match TcpDiagnosis::open() {
        Ok(kernel) => kernel,
        Err(error) => return tracing::info!(%error, "this kernel does not tell of TCP connections: no link metrics"),
    };
    let mut again = interval(SAMPLE_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(again.tick()).await.is_some() {
        links.sample(&mut kernel);
    }
}

impl Links {
    /// Looks at this connection from now on. `site`: where it leads to; empty where nobody knows.
    pub fn watch(&self, site: &str, local: SocketAddr, peer: SocketAddr) -> WatchedLink {
        let view = Arc::<TcpView>::default();
        let mut open = self.lock();
        let site = open.site(site);
        let number = open.next;
        open.next += 1;
        let connection = Connection { site, local, peer, last: TcpInfo::default(), view: view.clone() };
        open.connections.insert(number, connection);
        WatchedLink { links: self.clone(), number, view }
    }

    /// Asks the kernel once about each. What it does not tell stays as it was.
    fn sample(&self, kernel: &mut TcpDiagnosis) {
        for (number, local, peer) in self.turn() {
            // Asked without the lock: a connection may begin and end meanwhile.
            match kernel.of(local, peer) {
                Ok(Some(info)) => self.lock().note(number, info),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the kernel does not tell of a mesh connection");
                    return;
                }
            }
        }
    }

    fn turn(&self) -> Vec<(u64, SocketAddr, SocketAddr)> {
        let mut open = self.lock();
        let from = open.asked_up_to;
        let after = open.connections.range(from..).chain(open.connections.range(..from));
        let turn: Vec<_> = after.take(MOST_AT_ONCE).map(|(number, of)| (*number, of.local, of.peer)).collect();
        open.asked_up_to = turn.last().map_or(0, |(number, ..)| number + 1);
        turn
    }

    /// By site, for a page.
    pub(super) fn each(&self) -> Vec<SiteLink> {
        let open = self.lock();
        open.sites.iter().map(|(site, totals)| open.of_site(site, *totals)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn site(&mut self, name: &str) -> Arc<str> {
        let name = match name {
            "" => "unknown",
            name if self.sites.len() >= MOST_SITES && !self.sites.contains_key(name) => "other",
            name => name,
        };
        if let Some((known, _)) = self.sites.get_key_value(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.sites.insert(name.clone(), Totals::default());
        name
    }

    fn note(&mut self, number: u64, info: TcpInfo) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let before = std::mem::replace(&mut connection.last, info);
        connection.view.rtt_us.store(u32::try_from(info.rtt.as_micros()).unwrap_or(u32::MAX), Relaxed);
        connection.view.retransmitted.store(info.retransmitted, Relaxed);
        connection.view.delivery_rate.store(info.delivery_rate, Relaxed);
        if let Some(totals) = self.sites.get_mut(&connection.site) {
            // The kernel's own counters wrap at 32 bits.
            totals.sent += u64::from(info.sent.wrapping_sub(before.sent));
            let bytes = [(before.acknowledged, info.acknowledged), (before.received, info.received)];
            for (total, (before, now)) in totals.bytes.iter_mut().zip(bytes) {
                *total += now.saturating_sub(before);
            }
            totals.retransmitted += u64::from(info.retransmitted.wrapping_sub(before.retransmitted));
        }
    }

    fn of_site(&self, site: &Arc<str>, totals: Totals) -> SiteLink {
        let asked = self.connections.values().filter(|of| of.site == *site && of.last.rtt > Duration::ZERO);
        let (mut count, mut sum, mut least, mut delivery_rate, mut path_mtu) = (0, Duration::ZERO, None, 0, None);
        for connection in asked {
            let TcpInfo { rtt, path_mtu: mtu, delivery_rate: rate, .. } = connection.last;
            (count, sum, delivery_rate) = (count + 1, sum + rtt, delivery_rate + rate);
            least = Some(least.map_or(rtt, |least: Duration| least.min(rtt)));
            path_mtu = Some(path_mtu.map_or(mtu, |least: u32| least.min(mtu)));
        }
        let rtt = least.map(|least| (least, sum / count));
        let Totals { sent, retransmitted, bytes } = totals;
        SiteLink { site: site.clone(), sent, retransmitted, bytes, rtt, delivery_rate, path_mtu }
    }
}

impl Drop for WatchedLink {
    fn drop(&mut self) {
        self.links.lock().connections.remove(&self.number);
    }
}

#[cfg(test)]
#[path = "links_test.rs"]
mod links_test;
