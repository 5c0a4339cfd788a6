//! What capture takes and what it leaves, proved with real packets in network namespaces of the test's own.
//!
//! Each test is a process of its own. `main` makes the user namespace while the process has one thread, as the kernel
//! asks; the test then works in new network namespaces, so that tests share nothing and no port is taken.

#[path = "host/alone.rs"]
mod alone;
mod host;
#[path = "host/iptables.rs"]
mod iptables;
#[path = "host/rivals.rs"]
mod rivals;
#[path = "host/source.rs"]
mod source;
#[path = "host/untouched.rs"]
mod untouched;
#[path = "host/whole_proxy.rs"]
mod whole_proxy;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use isthmus_proxy::listen::{bind, original_destination};
use isthmus_proxy::redirect::{
    Applied, Capture, CaptureError, Exemption, InboundPorts, Plan, Protection, Scope, Standing,
};
use isthmus_proxy::tcp::{DialOptions, dial};
use libtest_mimic::{Arguments, Failed};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use host::{OTHER_V4, OTHER_V6, Pair, THIS_V4, THIS_V6};

const MARK: u32 = 1337;
const DEADLINE: Duration = Duration::from_secs(5);
const VIP_V4: &str = "10.96.0.1:80";
const VIP_V6: &str = "[fd00:96::1]:80";

type Outcome = Result<(), Failed>;

fn main() -> Outcome {
    if std::env::args().nth(1).is_some_and(|word| word == rivals::HOLD) {
        return rivals::hold();
    }
    let arguments = Arguments::from_args();
    if alone::is_alone() {
        host::become_root_of_a_user_namespace();
    }
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(alone::trial(stringify!($name), || Pair::new()?.this.run($name))),*]
        };
    }
    use iptables::*;
    use rivals::*;
    use source::*;
    use untouched::*;
    use whole_proxy::*;
    let mut trials = trials![
        outbound_is_captured_with_its_original_destination,
        excluded_ports_and_ranges_are_left_alone,
        loopback_and_own_addresses_are_left_alone,
        applying_twice_changes_nothing,
        another_plan_replaces_the_first,
        a_second_proxy_is_refused_while_the_first_lives_and_takes_over_after_it,
        the_rules_outlive_a_proxy_that_dies_and_what_they_capture_is_refused,
        a_trial_ends_with_whoever_made_it,
        removal_leaves_the_rule_set_as_it_was,
        unprotected_rules_come_back_at_once,
        ping_is_left_alone,
        an_app_sees_its_callers_address_and_its_answers_come_back,
        the_ports_of_a_callers_address_serve_every_app,
        iptables_legacy_captures,
        iptables_nft_captures,
        rules_stay_after_an_orderly_stop,
        rules_go_with_a_proxy_that_is_stopped_by_hand,
    ];
    macro_rules! with_both_hosts {
        ($($name:ident),* $(,)?) => { [$(alone::trial(stringify!($name), $name)),*] };
    }
    trials.extend(with_both_hosts![
        no_plaintext_during_flushes_and_after_a_kill,
        no_plaintext_while_plans_change,
        udp_passes_or_is_dropped_and_counted,
        known_ports_are_closed_before_the_first_sync,
        at_the_first_start_every_port_but_the_excluded_is_closed,
    ]);
    trials.push(alone::trial("marked_sockets_are_exempt", || exempt(Exemption::Mark(MARK), Some(MARK))));
    trials.push(alone::trial("the_proxys_user_is_exempt", || exempt(Exemption::Uid(0), None)));
    trials.push(alone::trial("inbound_is_captured_but_not_the_proxys_own_ports", inbound_all));
    trials.push(alone::trial("only_the_services_ports_are_captured_where_asked_for", inbound_services));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The proxy's listeners and its capture, in the namespace of the calling thread.
struct Proxy {
    outbound: TcpListener,
    inbound: TcpListener,
    scope: Scope,
    capture: Capture,
}

impl Proxy {
    fn new() -> Result<Proxy, Failed> {
        let any = "[::]:0".parse::<SocketAddr>()?;
        let (outbound, inbound) = (bind("outbound", any, 1)?, bind("inbound", any, 1)?);
        let scope = Scope {
            exclude_inbound_ports: vec![22],
            exclude_outbound_ports: vec![25],
            exclude_outbound_cidrs: vec!["10.97.0.0/16".parse()?, "fd00:97::/64".parse()?],
            ..Scope::all(Exemption::Mark(MARK), outbound.address.port(), inbound.address.port())
        };
        let one = |bound: isthmus_proxy::listen::Bound| {
            let listener = bound.listeners.into_iter().next().ok_or("bound none")?;
            TcpListener::from_std(listener).map_err(|error| error.to_string())
        };
        Ok(Proxy { outbound: one(outbound)?, inbound: one(inbound)?, scope, capture: owned()? })
    }

    async fn capturing(change: impl FnOnce(&mut Scope)) -> Result<Proxy, Failed> {
        let mut proxy = Proxy::new()?;
        change(&mut proxy.scope);
        proxy.capture.apply(&Plan::new(&proxy.scope))?;
        Ok(proxy)
    }
}

async fn connect(to: SocketAddr, mark: Option<u32>) -> std::io::Result<TcpStream> {
    dial(to, DialOptions { mark, deadline: DEADLINE }).await
}

/// The original destination of the next connection that `listener` gets.
async fn taken(listener: &TcpListener) -> Result<SocketAddr, Failed> {
    let (stream, _) = timeout(DEADLINE, listener.accept()).await.map_err(|_| "nothing was captured")??;
    original_destination(&stream).map_err(|reason| reason.word().into())
}

async fn outbound_is_captured_with_its_original_destination() -> Outcome {
    let proxy = Proxy::capturing(|_| ()).await?;
    for vip in [VIP_V4, VIP_V6] {
        let vip: SocketAddr = vip.parse()?;
        let app = connect(vip, None).await?;
        assert_eq!(app.peer_addr()?, vip, "the app must see the address that it called");
        assert_eq!(taken(&proxy.outbound).await?, vip);
    }
    Ok(())
}

async fn excluded_ports_and_ranges_are_left_alone() -> Outcome {
    let _proxy = Proxy::capturing(|_| ()).await?;
    // The other host has these addresses and nobody listens: it refuses, where the proxy would have accepted.
    for to in ["10.96.0.1:25", "10.97.1.1:80", "[fd00:96::1]:25", "[fd00:97::1]:80"] {
        let outcome = connect(to.parse()?, None).await.map_err(|error| error.kind());
        assert_eq!(outcome.err(), Some(std::io::ErrorKind::ConnectionRefused), "{to} was captured");
    }
    Ok(())
}

async fn loopback_and_own_addresses_are_left_alone() -> Outcome {
    let _proxy = Proxy::capturing(|_| ()).await?;
    for ip in ["127.0.0.1".parse()?, "::1".parse()?, IpAddr::from(THIS_V4), IpAddr::from(THIS_V6)] {
        let app = TcpListener::bind((ip, 0)).await?;
        let address = app.local_addr()?;
        let (_client, accepted) = tokio::try_join!(connect(address, None), app.accept())?;
        assert_eq!(accepted.0.local_addr()?, address);
    }
    Ok(())
}

async fn applying_twice_changes_nothing() -> Outcome {
    let mut proxy = Proxy::capturing(|_| ()).await?;
    let mut kernel = owned()?;
    let (generation, rules) = (kernel.generation()?, rule_set());
    proxy.capture.apply(&Plan::new(&proxy.scope))?;
    assert_eq!(kernel.generation()?, generation, "the rule set was touched");
    assert_eq!(rule_set(), rules);
    Ok(())
}

async fn another_plan_replaces_the_first() -> Outcome {
    let mut proxy = Proxy::capturing(|_| ()).await?;
    proxy.scope.exclude_outbound_ports.clear();
    assert_eq!(proxy.capture.apply(&Plan::new(&proxy.scope))?, Applied::Replaced);
    let _app = connect("10.96.0.1:25".parse()?, None).await?;
    assert_eq!(taken(&proxy.outbound).await?.port(), 25);
    assert!(matches!(owned()?.standing(&Plan::new(&proxy.scope))?, Standing::InForce { owned: true, .. }));
    Ok(())
}

async fn a_second_proxy_is_refused_while_the_first_lives_and_takes_over_after_it() -> Outcome {
    let first = Proxy::capturing(|_| ()).await?;
    let mut second = Proxy::new()?;
    let plan = Plan::new(&second.scope);
    for refused in [second.capture.apply(&plan).err(), second.capture.remove().err()] {
        assert!(matches!(refused, Some(CaptureError::AlreadyCaptured)), "{refused:?}");
    }
    drop(first);
    assert_eq!(second.capture.apply(&plan)?, Applied::Replaced);
    let _app = connect(VIP_V4.parse()?, None).await?;
    taken(&second.outbound).await?;
    assert!(matches!(second.capture.standing(&plan)?, Standing::InForce { owned: true, .. }));
    Ok(())
}

async fn the_rules_outlive_a_proxy_that_dies_and_what_they_capture_is_refused() -> Outcome {
    let proxy = Proxy::capturing(|_| ()).await?;
    let plan = Plan::new(&proxy.scope);
    drop(proxy);
    let standing = owned()?.standing(&plan)?;
    assert_eq!(standing, Standing::InForce { owned: false, persistent: true });
    for vip in [VIP_V4, VIP_V6] {
        let outcome = connect(vip.parse()?, None).await.map_err(|error| error.kind());
        assert_eq!(outcome.err(), Some(std::io::ErrorKind::ConnectionRefused));
    }
    assert!(owned()?.remove()?);
    assert_eq!(owned()?.standing(&plan)?, Standing::Absent);
    Ok(())
}

async fn a_trial_ends_with_whoever_made_it() -> Outcome {
    let scope = Proxy::new()?.scope;
    let mut trial = Capture::open(Protection::Trial)?;
    trial.apply(&Plan::new(&scope))?;
    assert_eq!(owned()?.standing(&Plan::new(&scope))?, Standing::InForce { owned: true, persistent: false });
    drop(trial);
    assert_eq!(owned()?.standing(&Plan::new(&scope))?, Standing::Absent);
    Ok(())
}

fn owned() -> Result<Capture, Failed> {
    Ok(Capture::open(Protection::Owned)?)
}

async fn removal_leaves_the_rule_set_as_it_was() -> Outcome {
    let others = Command::new("nft").args(["add", "table", "inet", "somebody-elses"]).status();
    let before = rule_set();
    let mut proxy = Proxy::capturing(|_| ()).await?;
    if let (Some(before), Some(with)) = (&before, rule_set()) {
        assert_ne!(*before, with);
        for rule in Plan::new(&proxy.scope).outbound {
            assert!(with.contains(&rule.to_string()), "nft does not show: {rule}\n{with}");
        }
    }
    proxy.capture.remove()?;
    assert_eq!(rule_set(), before);
    assert_eq!(owned()?.standing(&Plan::new(&proxy.scope))?, Standing::Absent);
    assert_eq!(before.is_some(), others.is_ok_and(|status| status.success()));
    Ok(())
}

/// True when these programs are there. Where they are not, says so loudly; under CI that is a failure.
fn installed(programs: &[&str]) -> bool {
    let there = |name: &str| ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let missing: Vec<_> = programs.iter().filter(|name| !there(name)).collect();
    if !missing.is_empty() {
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!ci, "not installed: {missing:?} (CI is set: missing programs are failures)");
        eprintln!("SKIPPED: not installed: {missing:?}");
    }
    missing.is_empty()
}

/// As `nft` prints it, where there is an `nft` to look with.
fn rule_set() -> Option<String> {
    let output = Command::new("nft").args(["list", "ruleset"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is exempt reaches the other host, though the proxy captures.
fn exempt(exempt: Exemption, mark: Option<u32>) -> Outcome {
    let pair = Pair::new()?;
    let (listening, served) = pair.other.start(|ready| async move {
        let (v4, v6) = (TcpListener::bind((OTHER_V4, 80)).await?, TcpListener::bind((OTHER_V6, 80)).await?);
        ready.send(()).map_err(|_| "gone")?;
        timeout(DEADLINE, async { tokio::try_join!(v4.accept(), v6.accept()) }).await??;
        Ok(())
    });
    listening.recv_timeout(DEADLINE)?;
    pair.this.run(move || async move {
        let proxy = Proxy::capturing(|scope| scope.exempt = exempt).await?;
        for to in [SocketAddr::from((OTHER_V4, 80)), SocketAddr::from((OTHER_V6, 80))] {
            connect(to, mark).await?;
        }
        let captured = timeout(Duration::from_millis(1), proxy.outbound.accept()).await;
        assert!(captured.is_err(), "an exempt connection was captured");
        Ok(())
    })?;
    served.join()
}

fn inbound_all() -> Outcome {
    inbound(InboundPorts::All, &[8080, 443], &[22, 15008, 15020, 15021])
}

fn inbound_services() -> Outcome {
    inbound(InboundPorts::Only(vec![8080]), &[8080], &[22, 443, 15008])
}

/// Connections from the other host to `captured` ports arrive at the proxy, those to `direct` ports do not.
fn inbound(ports: InboundPorts, captured: &'static [u16], direct: &'static [u16]) -> Outcome {
    let pair = Pair::new()?;
    let (ready, proxy) = pair.this.start(move |ready| async move {
        let proxy = Proxy::capturing(|scope| scope.inbound = ports).await?;
        ready.send(()).map_err(|_| "gone")?;
        for ip in [IpAddr::from(THIS_V4), IpAddr::from(THIS_V6)] {
            for port in captured {
                assert_eq!(taken(&proxy.inbound).await?, SocketAddr::new(ip, *port));
            }
        }
        Ok(())
    });
    ready.recv_timeout(DEADLINE)?;
    pair.other.run(move || async move {
        for ip in [IpAddr::from(THIS_V4), IpAddr::from(THIS_V6)] {
            for port in direct {
                let refused = connect((ip, *port).into(), None).await.map_err(|error| error.kind());
                assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused), "{ip}:{port} was captured");
            }
            for port in captured {
                connect((ip, *port).into(), None).await?;
            }
        }
        Ok(())
    })?;
    proxy.join()
}
