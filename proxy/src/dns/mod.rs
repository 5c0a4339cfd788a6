//! Names of the world outside, asked of this site's own resolvers: what a name means here is not for the app to say.
//!
//! One cache per worker: bounded, kept as long as the answer says but no shorter than a second and no longer than five
//! minutes. A question that several wait for is asked once. Refuses to wait longer than [`DEADLINE`].

pub mod message;
pub mod resolv_conf;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use foldhash::HashMap;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::tcp::{DialOptions, dial};
use message::{Answer, Kind, MAX_UDP, MessageError};
use resolv_conf::name_servers;

#[cfg(test)]
#[path = "dns_test.rs"]
mod dns_test;

/// For the whole of a question, all tries included.
pub const DEADLINE: Duration = Duration::from_secs(4);
/// One resolver is given so long before the next is asked.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Names that a worker remembers.
const MAX_NAMES: usize = 1_024;
/// Questions that may be under way at once.
const MAX_ASKING: usize = 64;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// An answer of no address, or none at all, holds so long.
const NEGATIVE: Duration = Duration::from_secs(3);
const MAX_TCP: usize = 16 * 1024;
const PORT: u16 = 53;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no resolver: neither the Site nor /etc/resolv.conf names one")]
    NoResolver,
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("no resolver answered for {name}: {last}")]
    NoAnswer { name: String, last: String },
    #[error("too many names are being asked for")]
    Busy,
}

type Found = Result<Rc<[IpAddr]>, ResolveError>;

/// One worker's.
pub struct Resolver {
    dial: DialOptions,
    files: Files,
    port: u16,
    cache: RefCell<HashMap<String, Rc<Entry>>>,
    asking: Cell<usize>,
    turn: Cell<usize>,
}

/// Where the host's own settings are.
#[derive(Debug, Clone)]
struct Files {
    resolv_conf: &'static str,
    hosts: &'static str,
}

#[derive(Default)]
struct Entry {
    found: OnceCell<(Found, Instant)>,
}

impl Resolver {
    pub fn new(dial: DialOptions) -> Resolver {
        let files = Files { resolv_conf: "/etc/resolv.conf", hosts: "/etc/hosts" };
        Resolver { dial, files, port: PORT, cache: RefCell::default(), asking: Cell::new(0), turn: Cell::new(0) }
    }

    /// The addresses of `name` as `resolvers` give them, or the host's own where there are none; /etc/hosts comes first.
    ///
    /// # Errors
    /// [`ResolveError`]; it is remembered for a few seconds.
    pub async fn resolve(&self, name: &str, resolvers: &[IpAddr]) -> Found {
        let entry = self.entry(name)?;
        let asked = entry.found.get_or_init(|| self.ask(name, resolvers)).await;
        asked.0.clone()
    }

    /// What is known and still holds, or a new place for it.
    fn entry(&self, name: &str) -> Result<Rc<Entry>, ResolveError> {
        let now = Instant::now();
        let holds = |entry: &Rc<Entry>| entry.found.get().is_none_or(|(_, until)| now < *until);
        let mut cache = self.cache.borrow_mut();
        if let Some(entry) = cache.get(name).filter(|entry| holds(entry)) {
            return Ok(Rc::clone(entry));
        }
        if cache.len() >= MAX_NAMES {
            cache.retain(|_, entry| holds(entry));
        }
        if cache.len() >= MAX_NAMES || self.asking.get() >= MAX_ASKING {
            return Err(ResolveError::Busy);
        }
        let entry = Rc::new(Entry::default());
        cache.insert(name.to_owned(), Rc::clone(&entry));
        Ok(entry)
    }

    async fn ask(&self, name: &str, resolvers: &[IpAddr]) -> (Found, Instant) {
        let asking = Asking::count(&self.asking);
        let (found, life) = self.look_up(name, resolvers).await;
        drop(asking);
        (found, Instant::now() + life.clamp(SHORTEST, LONGEST))
    }

    async fn look_up(&self, name: &str, resolvers: &[IpAddr]) -> (Found, Duration) {
        let known = resolv_conf::addresses_of(&self.read(self.files.hosts), name);
        if !known.is_empty() {
            return (Ok(known.into()), SHORTEST);
        }
        let own = if resolvers.is_empty() { name_servers(&self.read(self.files.resolv_conf)) } else { Vec::new() };
        let servers = if resolvers.is_empty() { own.as_slice() } else { resolvers };
        if servers.is_empty() {
            return (Err(ResolveError::NoResolver), NEGATIVE);
        }
        let deadline = Instant::now() + DEADLINE;
        let (v4, v6) = tokio::join!(
            self.ask_servers(name, Kind::A, servers, deadline),
            self.ask_servers(name, Kind::Aaaa, servers, deadline),
        );
        match (v4, v6) {
            (Err(last), Err(_)) => (Err(ResolveError::NoAnswer { name: name.to_owned(), last }), NEGATIVE),
            (v4, v6) => {
                let both: Vec<_> = [v4, v6].into_iter().flatten().collect();
                let life = both.iter().filter(|(found, _)| !found.is_empty()).map(|(_, life)| *life).min();
                let found: Vec<IpAddr> = both.into_iter().flat_map(|(found, _)| found).collect();
                match life {
                    Some(life) => (Ok(found.into()), life),
                    None => (Err(ResolveError::NoAddress(name.to_owned())), NEGATIVE),
                }
            }
        }
    }

    /// The files are small, and read once per question that nobody had asked before.
    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(file).unwrap_or_default()
    }

    async fn ask_servers(
        &self,
        name: &str,
        kind: Kind,
        servers: &[IpAddr],
        deadline: Instant,
    ) -> Result<(Vec<IpAddr>, Duration), String> {
        let first = self.turn.get();
        self.turn.set(first.wrapping_add(1));
        let mut last = "no time was left".to_owned();
        // Twice around: a lost datagram is the usual case.
        for place in 0..servers.len() * 2 {
            let server = servers[(first + place) % servers.len()];
            let until = deadline.min(Instant::now() + PATIENCE);
            match timeout_at(until, self.ask_server(name, kind, SocketAddr::new(server, self.port))).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => last = format!("{server}: {error}"),
                Err(_) => last = format!("{server}: no answer in time"),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(last)
    }

    async fn ask_server(&self, name: &str, kind: Kind, server: SocketAddr) -> io::Result<(Vec<IpAddr>, Duration)> {
        let id: u16 = rand::random();
        let query = message::query(id, name, kind).map_err(io::Error::other)?;
        // A port of its own per question: to forge an answer one has to guess it and the id.
        let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((local, 0)).await?;
        if let Some(mark) = self.dial.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(server).await?;
        socket.send(&query).await?;
        let mut buffer = [0u8; MAX_UDP];
        loop {
            let length = socket.recv(&mut buffer).await?;
            match message::answer(&buffer[..length], id, name, kind) {
                Ok(Answer::Addresses(found, life)) => return Ok((found, life)),
                Ok(Answer::Truncated) => return self.ask_over_tcp(&query, id, name, kind, server).await,
                // Somebody's guess; the true answer may still come.
                Err(MessageError::NotOurs) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    async fn ask_over_tcp(
        &self,
        query: &[u8],
        id: u16,
        name: &str,
        kind: Kind,
        server: SocketAddr,
    ) -> io::Result<(Vec<IpAddr>, Duration)> {
        let mut stream = dial(server, self.dial).await?;
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        let length = usize::from(stream.read_u16().await?);
        if length > MAX_TCP {
            return Err(io::Error::other("an answer of more than 16 KiB"));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        match message::answer(&bytes, id, name, kind).map_err(io::Error::other)? {
            Answer::Addresses(found, life) => Ok((found, life)),
            Answer::Truncated => Err(io::Error::other("the answer does not fit even over TCP")),
        }
    }
}

/// The resolvers that this host's DNS goes to in the end: where a local stub is asked (systemd-resolved), whom it asks.
pub fn host_resolvers() -> Vec<IpAddr> {
    let of = |file| name_servers(&std::fs::read_to_string(file).unwrap_or_default());
    let mut all = of("/etc/resolv.conf");
    if all.iter().all(IpAddr::is_loopback) {
        all.extend(of("/run/systemd/resolve/resolv.conf"));
    }
    all
}

/// Counts a question that is under way.
struct Asking<'a>(&'a Cell<usize>);

impl<'a> Asking<'a> {
    fn count(counter: &'a Cell<usize>) -> Asking<'a> {
        counter.set(counter.get() + 1);
        Asking(counter)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
