//! What was let in and still goes on: tunnels, requests and captured connections of one worker, by the app's port. When
//! policy changes, they are asked about again, and what is no longer allowed ends; nothing else notices.
//!
//! Only ports whose policy, or what it rests on, is another one are looked at: a snapshot in which they are the same
//! costs one comparison for each port in use. So it is when a rule or a bypass ends by itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Uri};
use isthmus_certs::SpiffeId;
use tokio::task::AbortHandle;

use super::authorize::{Caller, Question, Refusal};
use super::{Inbound, probe};
use crate::http::{respond, target};
use crate::reason::Reason;
use crate::state::policy::{Arrived, HttpFacts};
use crate::state::{InboundPort, Snapshot};

/// So many are asked about before others have their turn: half a millisecond.
const BATCH: usize = 256;
/// Where a rule ends at some time, the clock is looked at this often at least: it may be set while we wait.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// Tells whoever carries something that it ends.
#[derive(Default)]
pub(super) struct Signal {
    ended: RefCell<Option<Refusal>>,
    waker: Cell<Option<Waker>>,
}

impl Signal {
    /// Resolves when it is no longer allowed.
    pub(super) async fn ended(&self) -> Refusal {
        poll_fn(|cx| {
            if let Some(refusal) = &*self.ended.borrow() {
                return Poll::Ready(refusal.clone());
            }
            let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
            self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
            Poll::Pending
        })
        .await
    }

    /// Why it has ended, if it has.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.ended.borrow().clone()
    }

    fn end(&self, refusal: Refusal) {
        *self.ended.borrow_mut() = Some(refusal);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What was decided on.
pub(super) struct Entry {
    pub(super) port: u16,
    pub(super) peer: Option<SpiffeId>,
    pub(super) address: IpAddr,
    pub(super) arrived: Arrived,
    pub(super) head: Option<Head>,
    /// As in [`Question`].
    pub(super) may_probe: bool,
    pub(super) signal: Rc<Signal>,
}

/// A request, as far as it is kept.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Where the URI does not say it.
    pub(super) host: Option<Box<str>>,
    /// `None`: no rule asked for them, and they are not kept.
    pub(super) headers: Option<HeaderMap>,
}

impl Head {
    /// `with_headers`: a rule asks for them. Kept as well where a request is likely to last: a later rule may ask.
    pub(super) fn of<B>(request: &Request<B>, with_headers: bool) -> Head {
        let headers = request.headers();
        let streams =
            || respond::is_grpc(headers) || headers.get(ACCEPT).is_some_and(|types| types == "text/event-stream");
        let uri = request.uri().clone();
        Head {
            method: request.method().clone(),
            host: target::host(request).filter(|_| uri.authority().is_none()).map(Into::into),
            headers: (with_headers || streams()).then(|| headers.clone()),
            uri,
        }
    }
}

/// One stream, and what stands for it among the live ones once it is let in.
#[derive(Default)]
pub(super) struct Watched {
    pub(super) signal: Rc<Signal>,
    admitted: RefCell<Option<Admitted>>,
}

impl Watched {
    /// A stream of a connection that ends as a whole.
    pub(super) fn of(signal: &Rc<Signal>) -> Watched {
        Watched { signal: Rc::clone(signal), admitted: RefCell::default() }
    }

    /// A stream that is let in twice (a first try, and another) counts as it was let in last.
    pub(super) fn admit(&self, live: &Rc<Live>, entry: Entry) {
        *self.admitted.borrow_mut() = Some(live.admit(entry));
    }

    pub(super) fn into_admitted(self) -> Option<Admitted> {
        self.admitted.into_inner()
    }
}

/// All of one worker.
pub(super) struct Live {
    inbound: Weak<Inbound>,
    ports: RefCell<HashMap<u16, Entries, RandomState>>,
    watch: RefCell<Option<AbortHandle>>,
}

/// Numbered places, some of them free.
#[derive(Default)]
struct Entries {
    places: Vec<Option<Rc<Entry>>>,
    free: Vec<usize>,
}

/// Something that is let in, as long as this is held.
pub(super) struct Admitted {
    live: Rc<Live>,
    port: u16,
    place: usize,
}

impl Live {
    pub(super) fn new(inbound: Weak<Inbound>) -> Rc<Live> {
        Rc::new(Live { inbound, ports: RefCell::default(), watch: RefCell::default() })
    }

    pub(super) fn admit(self: &Rc<Self>, entry: Entry) -> Admitted {
        self.start_watching();
        let (port, entry) = (entry.port, Some(Rc::new(entry)));
        let mut ports = self.ports.borrow_mut();
        let entries = ports.entry(port).or_default();
        let place = match entries.free.pop() {
            Some(place) => {
                entries.places[place] = entry;
                place
            }
            None => {
                entries.places.push(entry);
                entries.places.len() - 1
            }
        };
        Admitted { live: Rc::clone(self), port, place }
    }

    /// The same for what was decided on before others had their turn (the app was dialled meanwhile): a policy that came
    /// since has asked everybody but this one.
    pub(super) fn admit_late(self: &Rc<Self>, entry: Entry) -> Admitted {
        if let Some(inbound) = self.inbound.upgrade() {
            let mesh = inbound.needs.state.snapshot();
            let caller = Caller { peer: entry.peer.as_ref(), address: entry.address, arrived: entry.arrived };
            let (number, port) = (entry.port, mesh.inbound().port(entry.port));
            let question = Question { mesh: &mesh, number, port, caller, http: None, may_probe: false };
            if !inbound.would_pass(&question)
                && let Err(refusal) = inbound.still_authorized(&question)
            {
                entry.signal.end(refusal);
            }
        }
        self.admit(entry)
    }

    /// From the first on: before, there is nobody to ask about.
    fn start_watching(self: &Rc<Self>) {
        let mut watch = self.watch.borrow_mut();
        if watch.is_none()
            && let Some(inbound) = self.inbound.upgrade()
        {
            let (snapshot, published) = (inbound.needs.state.snapshot(), inbound.needs.state.subscribe());
            drop(inbound);
            let watching = follow(Rc::downgrade(self), self.inbound.clone(), snapshot, published);
            *watch = Some(tokio::task::spawn_local(watching).abort_handle());
        }
    }

    fn ports_in_use(&self) -> Vec<u16> {
        let ports = self.ports.borrow();
        ports.iter().filter(|(_, entries)| entries.places.len() > entries.free.len()).map(|(port, _)| *port).collect()
    }

    /// Up to [`BATCH`] entries of a port from a place on; nothing: there are no more.
    fn batch(&self, port: u16, from: usize) -> Vec<Option<Rc<Entry>>> {
        let ports = self.ports.borrow();
        let places = ports.get(&port).map(|entries| entries.places.as_slice()).unwrap_or_default();
        places.iter().skip(from).take(BATCH).cloned().collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get_mut() {
            watch.abort();
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut ports = self.live.ports.borrow_mut();
        let Some(entries) = ports.get_mut(&self.port) else { return };
        entries.places[self.place] = None;
        entries.free.push(self.place);
        if entries.free.len() == entries.places.len() {
            // Ten thousand tunnels that went leave nothing behind.
            ports.remove(&self.port);
        }
    }
}

/// Ends with the worker's inbound path.
async fn follow(
    live: Weak<Live>,
    inbound: Weak<Inbound>,
    mut seen: Snapshot,
    mut published: tokio::sync::watch::Receiver<u64>,
) {
    let mut looked_ms = match inbound.upgrade() {
        Some(inbound) => inbound.now_ms(),
        None => return,
    };
    loop {
        let wait = {
            let Some(inbound) = inbound.upgrade() else { return };
            inbound.until_next_end(&seen, looked_ms)
        };
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = sleep_or_never(wait) => {}
        }
        let (Some(live), Some(inbound)) = (live.upgrade(), inbound.upgrade()) else { return };
        let (now, now_ms) = (inbound.needs.state.snapshot(), inbound.now_ms());
        for port in live.ports_in_use() {
            if is_another(&seen, &now, port) || has_ended(now.inbound().port(port), looked_ms, now_ms) {
                ask_again(&inbound, &live, &now, port).await;
            }
        }
        (seen, looked_ms) = (now, now_ms);
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait.min(CLOCK_CHECK)).await,
        None => std::future::pending().await,
    }
}

/// Whether a decision at this port may have another outcome.
fn is_another(before: &Snapshot, now: &Snapshot, port: u16) -> bool {
    if before.is(now) {
        return false;
    }
    let policy = now.inbound().port(port);
    !Arc::ptr_eq(before.inbound().port(port), policy)
        || before.enforcement() != now.enforcement()
        || ((policy.policy.needs_site() || policy.policy.needs_address()) && !before.has_same_sites(now))
        || (policy.policy.needs_address() && !before.inbound().has_same_registered(now.inbound()))
}

fn has_ended(port: &InboundPort, since_ms: i64, now_ms: i64) -> bool {
    next_end(port, since_ms).is_some_and(|end| end <= now_ms)
}

/// When a rule or a bypass ends after a time.
fn next_end(port: &InboundPort, after_ms: i64) -> Option<i64> {
    let bypass = port.standing.bypass_until_ms.filter(|until| *until > after_ms);
    port.policy.next_end(after_ms).into_iter().chain(bypass).min()
}

/// Asks about all of a port, and ends what gets a no.
async fn ask_again(inbound: &Rc<Inbound>, live: &Live, mesh: &Snapshot, port: u16) {
    let policy = Arc::clone(mesh.inbound().port(port));
    let mut from = 0;
    loop {
        let batch = live.batch(port, from);
        if batch.is_empty() {
            return;
        }
        from += batch.len();
        for entry in batch.into_iter().flatten() {
            if let Err(refusal) = inbound.may_stay(mesh, &policy, &entry) {
                entry.signal.end(refusal);
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Inbound {
    fn now_ms(&self) -> i64 {
        self.needs.identity.clock().now_ms()
    }

    fn until_next_end(&self, mesh: &Snapshot, after_ms: i64) -> Option<Duration> {
        let ports = mesh.inbound().ports().chain([mesh.inbound().undeclared()]);
        let end = ports.filter_map(|port| next_end(port, after_ms)).min()?;
        // One more: at the end itself the rule is gone, and a timer may be early by a part of a millisecond.
        Some(Duration::from_millis(u64::try_from(end - self.now_ms()).unwrap_or(0) + 1))
    }

    fn may_stay(&self, mesh: &Snapshot, port: &InboundPort, entry: &Entry) -> Result<(), Refusal> {
        let caller = Caller { peer: entry.peer.as_ref(), address: entry.address, arrived: entry.arrived };
        let forgotten = HeaderMap::new();
        let http = entry.head.as_ref().map(|head| HttpFacts {
            host: head.host.as_deref().or_else(|| head.uri.host()),
            method: head.method.as_str(),
            path: head.uri.path(),
            headers: head.headers.as_ref().unwrap_or(&forgotten),
        });
        let question = Question { mesh, number: entry.port, port, caller, http, may_probe: entry.may_probe };
        let unknown = entry.head.as_ref().is_some_and(|head| head.headers.is_none()) && port.policy.needs_headers();
        if unknown && self.is_enforced(mesh, port) && !probe::is_request(&question) {
            let detail =
                "a rule asks for headers of a request that began when none did: it ends, and may be made again";
            return Err(self.refuse(Reason::NotAllowed, entry.address, detail));
        }
        self.still_authorized(&question)
    }
}
