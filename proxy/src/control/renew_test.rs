//! The timing of renewals, as it runs, in thousands of random lives on paused time: the control plane comes and goes, its
//! signer fails, clocks are set, operators ask. Certificates are real; only the way to the control plane is not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use isthmus_certs::verify::{Role, verify_chain};
use isthmus_certs::{CertificateAuthority, Clock, PrivateKey, PublicKeyInfo, SpiffeId, TrustDomain};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::*;

/// 2027-01-15T08:00:00Z.
const EPOCH_MS: i64 = 1_800_000_000_000;
const CASES: u64 = 2_000;
/// Beyond this no promise is made (docs/certificates.md).
const SKEW_MS: i64 = 300_000;

/// The true time: of the control plane, and of everybody whose clock is right.
struct Truth(Mutex<Instant>);

impl Clock for Truth {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.0.lock().unwrap().elapsed().as_millis()).unwrap()
    }
}

/// The proxy's clock.
struct Local(Arc<Truth>, AtomicI64);

impl Clock for Local {
    fn now_ms(&self) -> i64 {
        self.0.now_ms() + self.1.load(Ordering::Relaxed)
    }
}

/// A value that both sides of the simulation use. One thread runs it all.
struct Shared<T>(Mutex<T>);

impl<T: Copy> Shared<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn get(&self) -> T {
        *self.0.lock().unwrap()
    }
    fn set(&self, value: T) {
        *self.0.lock().unwrap() = value;
    }
}

struct Case<'a> {
    ca: &'a CertificateAuthority,
    truth: Arc<Truth>,
    local: Arc<Local>,
    identities: Arc<IdentityStore>,
    life: Duration,
    up: Shared<bool>,
    signs: Shared<bool>,
    renewed: Shared<u32>,
    asked: Shared<u32>,
    /// What should bring a renewal out of turn.
    pushes: Shared<u32>,
}

impl Case<'_> {
    fn issue(&self, key: PrivateKey) -> Result<WorkloadIdentity, ControlError> {
        let id = SpiffeId::parse("spiffe://shop.example/ns/shop/sa/orders").unwrap();
        let issued = self.ca.issue(&PublicKeyInfo::of(&key), &id, self.life, &[]).unwrap();
        Ok(WorkloadIdentity::from_issued(issued, key, self.ca.bundle(), self.local.now())?)
    }

    /// What becomes of a request now.
    fn answer(&self, current: &WorkloadIdentity) -> Result<(), ControlError> {
        self.asked.set(self.asked.get() + 1);
        let good = self.up.get() && self.identities.shown().is_some() && current.holds_at(self.truth.now());
        if !good {
            return Err(ControlError::StreamEnded);
        }
        if !self.signs.get() {
            return Err(ControlError::Refused(tonic::Status::internal("the token is not there")));
        }
        let renewed = self.issue(PrivateKey::generate().unwrap())?;
        self.identities.replace(renewed)?;
        self.renewed.set(self.renewed.get() + 1);
        Ok(())
    }

    fn is_reachable(&self) -> bool {
        self.up.get()
            && self.signs.get()
            && self.local.1.load(Ordering::Relaxed).abs() < SKEW_MS.min(self.life_ms() / 4)
    }

    fn life_ms(&self) -> i64 {
        i64::try_from(self.life.as_millis()).unwrap()
    }

    /// Never presented, never accepted outside of its dates.
    fn check_dates(&self) {
        let (current, now) = (self.identities.current().unwrap(), self.identities.now());
        let dates_hold = current.not_before <= now && now <= current.not_after;
        assert_eq!(self.identities.shown().is_some(), dates_hold);
        let trust_domain = self.identities.trust_domain();
        let taken = verify_chain(&current.chain, &self.identities.bundle(), trust_domain, Role::Server, now);
        assert_eq!(taken.is_ok(), dates_hold, "{taken:?}");
    }
}

/// Whether the control plane could be reached without a break, and since when; and whether there was a certificate then.
struct Window {
    since_ms: Option<i64>,
    had_time: bool,
}

impl Case<'_> {
    /// The longest that a renewal may lag behind a control plane that came back: a wait between two tries, which is never
    /// longer than a tenth of what was left, and the time in which a jump is noticed.
    fn grace_ms(&self) -> i64 {
        self.life_ms() / 20 + 6_000
    }

    fn watch(&self, window: &mut Window) {
        let (now, current) = (self.truth.now_ms(), self.identities.current().unwrap());
        let (ends, issued) = (end_ms(&current), issued_ms(&current));
        if !self.is_reachable() {
            *window = Window { since_ms: None, had_time: false };
            return;
        }
        let since = *window.since_ms.get_or_insert_with(|| {
            // By whichever clock ends it first.
            window.had_time = ends - now.max(self.local.now_ms()) > self.grace_ms();
            now
        });
        if now - since > self.grace_ms() && window.had_time {
            assert!(self.identities.shown().is_some(), "without a certificate, and the control plane is there");
            let late = now - (issued + self.life_ms() * 6 / 10);
            let slow = self.local.1.load(Ordering::Relaxed).abs();
            assert!(late <= self.grace_ms() + slow, "renewal is {late} ms late");
        }
    }

    async fn live(&self, random: &mut StdRng, renew_now: &Notify, reached: &Notify) {
        let mut window = Window { since_ms: None, had_time: false };
        for _ in 0..random.random_range(5..25) {
            match random.random_range(0..12) {
                0..=3 => self.up.set(!self.up.get()),
                4 => self.signs.set(!self.signs.get()),
                5 | 6 => self.set_clock(random),
                7 => {
                    self.pushes.set(self.pushes.get() + 1);
                    renew_now.notify_one();
                }
                8 if self.up.get() => reached.notify_waiters(),
                _ => {}
            }
            self.check_dates();
            for _ in 0..random.random_range(1..14) {
                sleep(self.life / 50).await;
                self.watch(&mut window);
            }
            self.check_dates();
        }
    }

    fn set_clock(&self, random: &mut StdRng) {
        self.pushes.set(self.pushes.get() + 1);
        let offset = match random.random_range(0..4) {
            0 => random.random_range(-10_000..10_000),
            1 => random.random_range(-SKEW_MS..SKEW_MS),
            2 => random.random_range(-3 * self.life_ms()..3 * self.life_ms()),
            _ => 0,
        };
        self.local.1.store(offset, Ordering::Relaxed);
    }
}

async fn case(ca: &CertificateAuthority, truth: &Arc<Truth>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    *truth.0.lock().unwrap() = Instant::now();
    let local = Arc::new(Local(Arc::clone(truth), AtomicI64::new(0)));
    let clock: Arc<dyn Clock> = Arc::<Local>::clone(&local);
    let identities = IdentityStore::new(TrustDomain::parse("shop.example").unwrap(), clock);
    let life = Duration::from_secs([60, 90, 300, 1_800][random.random_range(0..4)]);
    let (up, signs) = (Shared::new(true), Shared::new(true));
    let (renewed, asked, pushes) = (Shared::new(0), Shared::new(0), Shared::new(0));
    let truth = Arc::clone(truth);
    let case = Case { ca, truth, local, identities, life, up, signs, renewed, asked, pushes };
    case.identities.replace(case.issue(PrivateKey::generate().unwrap()).unwrap()).unwrap();
    let (state, _demands) = State::new();
    let (standing, metrics, renew_now, reached) = (Standing::default(), Metrics::new(1), Notify::new(), Notify::new());
    let renewals = Renewals {
        identities: &case.identities,
        state: &state,
        standing: &standing,
        metrics: &metrics,
        renew_now: &renew_now,
        reached: &reached,
    };
    let ask = |current: Arc<WorkloadIdentity>| -> BoxFuture<'_, _> {
        let case = &case;
        Box::pin(async move {
            sleep(Duration::from_millis(20)).await;
            case.answer(&current)
        })
    };
    let began = case.truth.now_ms();
    tokio::select! {
        () = renewals.keep_fresh(&ask) => panic!("renewal ended"),
        () = case.live(&mut random, &renew_now, &reached) => {}
    }
    // A clock that is ahead by nearly a life leaves a hundredth of it between renewals, and no less.
    let hundredths = u32::try_from((case.truth.now_ms() - began) * 100 / case.life_ms()).unwrap();
    let due = hundredths + case.pushes.get() * 2 + 3;
    assert!(case.renewed.get() <= due, "{} renewals where {due} were due at most", case.renewed.get());
    assert!(case.asked.get() < 10_000, "asked {} times", case.asked.get());
}

#[test]
fn a_certificate_is_there_whenever_it_can_be_and_never_outside_its_dates() {
    let truth = Arc::new(Truth(Mutex::new(Instant::now())));
    let clock: Arc<dyn Clock> = Arc::<Truth>::clone(&truth);
    let ca = CertificateAuthority::generate(&TrustDomain::parse("shop.example").unwrap(), clock).unwrap();
    for seed in 0..CASES {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let lived = std::panic::AssertUnwindSafe(|| runtime.block_on(Box::pin(case(&ca, &truth, seed))));
        if let Err(panic) = std::panic::catch_unwind(lived) {
            eprintln!("in case {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
