//! The app's first bytes, where a port does not say what it carries. Last resort is a short limit; before it comes what
//! was learned of the same destination, and while the app is silent the tunnel is opened, so that a server that speaks
//! first is heard at once.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::balance::Tried;
use super::connection::Route;
use super::tunnel::{Opened, Prefix, Reached, open};
use super::{Outbound, carried, tunnel};
use crate::detect::peek::DETECTION_LIMIT;
use crate::detect::{Peeked, Protocol, Seen, peek_into};

/// So long the app alone is listened to. Half of a round trip on a slow LAN, and less than a person notices.
const HEAD_START: Duration = Duration::from_millis(20);
/// On a destination whose clients were seen to speak first, a slow one is waited for so long: taking it for opaque
/// would cost it its HTTP.
const PATIENCE: Duration = Duration::from_secs(2);
/// What was learned holds so long after it was last seen.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Destinations that a worker remembers.
const MAX_REMEMBERED: usize = 1_024;

/// Who speaks first at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    Client,
    Server,
}

/// What a worker has learned, by service address and port. Bounded; what is full forgets what is oldest by expiry.
#[derive(Debug, Default)]
pub(super) struct Verdicts(RefCell<HashMap<SocketAddr, (Speaker, Instant)>>);

impl Verdicts {
    pub(super) fn get(&self, destination: SocketAddr) -> Option<Speaker> {
        let known = self.0.borrow();
        known.get(&destination).filter(|(_, until)| Instant::now() < *until).map(|(speaker, _)| *speaker)
    }

    pub(super) fn learn(&self, destination: SocketAddr, speaker: Speaker) {
        let now = Instant::now();
        let mut known = self.0.borrow_mut();
        if known.len() >= MAX_REMEMBERED && !known.contains_key(&destination) {
            known.retain(|_, (_, until)| now < *until);
            let oldest = known.iter().min_by_key(|(_, (_, until))| *until).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| known.len() >= MAX_REMEMBERED) {
                known.remove(&oldest);
            }
        }
        known.insert(destination, (speaker, now + REMEMBERED));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// What came first.
pub(super) enum First {
    /// The app's bytes; or none, where there is no point in waiting for them.
    App(Peeked),
    /// The app said nothing that we know, and a tunnel is open already.
    Opened(BytesMut, Box<Opened>),
    /// The server's bytes.
    Server(Bytes, Box<Reached>),
}

/// Finds out what is spoken on a port that nobody declared.
pub(super) async fn detect(outbound: &Outbound, app: &mut TcpStream, route: &Route) -> io::Result<First> {
    let destination = route.destination;
    let learned = outbound.verdicts.get(destination);
    let mut bytes = BytesMut::new();
    let limit = match learned {
        Some(Speaker::Server) => return Ok(opaque(bytes)),
        Some(Speaker::Client) => PATIENCE,
        None => HEAD_START,
    };
    match peek_into(app, &mut bytes, limit).await? {
        Seen::Silent if learned.is_none() && bytes.is_empty() => listen_to_both(outbound, app, route).await,
        // It has begun to speak: only the rest is missing.
        Seen::Silent if learned.is_none() => {
            let seen = peek_into(app, &mut bytes, DETECTION_LIMIT).await?;
            Ok(said(outbound, destination, seen, bytes))
        }
        seen => Ok(said(outbound, destination, seen, bytes)),
    }
}

/// The tunnel is opened meanwhile. An HTTP client that was only slow costs the server a connection without a byte.
async fn listen_to_both(outbound: &Outbound, app: &mut TcpStream, route: &Route) -> io::Result<First> {
    let destination = route.destination;
    let mut bytes = BytesMut::new();
    let Some(mut opened) = open_early(outbound, route).await else {
        let seen = peek_into(app, &mut bytes, DETECTION_LIMIT).await?;
        return Ok(said(outbound, destination, seen, bytes));
    };
    let spoken = tokio::select! {
        biased;
        seen = peek_into(app, &mut bytes, DETECTION_LIMIT) => Err(seen?),
        spoken = opened.server_speaks() => Ok(spoken),
    };
    match spoken {
        Ok(Ok((from_peer, first))) => {
            outbound.verdicts.learn(destination, Speaker::Server);
            carried::reached(outbound, route.span(outbound), &opened.endpoint);
            let early = (0, u32::try_from(first.len()).unwrap_or(u32::MAX));
            Ok(First::Server(first, Box::new(opened.reached(from_peer, early))))
        }
        // Refused, or gone: whoever serves the connection finds out why by himself.
        Ok(Err(_)) => Ok(opaque(bytes)),
        Err(Seen::Spoken(protocol)) if protocol != Protocol::Opaque => {
            outbound.verdicts.learn(destination, Speaker::Client);
            Ok(First::App(Peeked { protocol, bytes, ended: false }))
        }
        Err(seen) => {
            if !bytes.is_empty() {
                outbound.verdicts.learn(destination, Speaker::Client);
            }
            if seen == Seen::Ended {
                return Ok(First::App(Peeked { protocol: Protocol::Opaque, bytes, ended: true }));
            }
            Ok(First::Opened(bytes, Box::new(opened)))
        }
    }
}

async fn open_early(outbound: &Outbound, route: &Route) -> Option<tunnel::Opened> {
    let to = route.pick(outbound, outbound.next_turn(), Tried::default())?;
    let peer = to.0.mesh.as_ref()?;
    open(outbound, route, to, peer, &Prefix::default()).await.ok()
}

fn opaque(bytes: BytesMut) -> First {
    First::App(Peeked { protocol: Protocol::Opaque, bytes, ended: false })
}

fn said(outbound: &Outbound, destination: SocketAddr, seen: Seen, bytes: BytesMut) -> First {
    if !bytes.is_empty() {
        outbound.verdicts.learn(destination, Speaker::Client);
    }
    let (protocol, ended) = match seen {
        Seen::Spoken(protocol) => (protocol, false),
        Seen::Ended => (Protocol::Opaque, true),
        Seen::Silent => (Protocol::Opaque, false),
    };
    First::App(Peeked { protocol, bytes, ended })
}

#[cfg(test)]
#[path = "first_test.rs"]
mod first_test;
