//! Others change the rules while connections are made, and the proxy dies: not one connection may pass uncaptured.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use isthmus_proxy::redirect::{Applied, Capture, Changes, Plan, Protection, Standing};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::host::{OTHER_V4, OTHER_V6, Pair, Running};
use super::{DEADLINE, Outcome, Proxy, connect, installed, taken};

/// The first argument of this program when it is to be a proxy that can be killed.
pub(crate) const HOLD: &str = "__hold-capture";
const FLUSHES: usize = 50;
/// Who is not captured would be answered here.
const PLAIN: [SocketAddr; 2] =
    [SocketAddr::new(std::net::IpAddr::V4(OTHER_V4), 80), SocketAddr::new(std::net::IpAddr::V6(OTHER_V6), 80)];

/// A proxy that captures and accepts until it is killed.
pub(crate) fn hold() -> Outcome {
    // Nothing is left where the test itself is killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let proxy = Proxy::capturing(|_| ()).await?;
        println!("holding");
        loop {
            drop(proxy.outbound.accept().await?);
        }
    })
}

/// Such a proxy, in the network namespace of the calling thread.
struct Held(Child);

impl Held {
    fn start() -> Result<Held, libtest_mimic::Failed> {
        let mut child = Command::new("/proc/self/exe").arg(HOLD).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no pipe")?;
        let held = Held(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        assert_eq!(line, "holding\n");
        Ok(held)
    }

    /// SIGKILL: it cannot clean up.
    fn kill(&mut self) -> Outcome {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The far host, where whoever arrives was not captured.
struct Plaintext {
    arrived: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: Running,
}

impl Plaintext {
    fn serve(pair: &Pair) -> Result<Plaintext, libtest_mimic::Failed> {
        let (arrived, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (arrived.clone(), stop.clone());
        let (ready, running) = pair.other.start(move |ready| async move {
            let (v4, v6) = (TcpListener::bind(PLAIN[0]).await?, TcpListener::bind(PLAIN[1]).await?);
            ready.send(()).map_err(|_| "gone")?;
            while !ended.load(SeqCst) {
                let next = async {
                    tokio::select! { c = v4.accept() => c, c = v6.accept() => c }
                };
                if timeout(std::time::Duration::from_millis(50), next).await.is_ok() {
                    count.fetch_add(1, SeqCst);
                }
            }
            Ok(())
        });
        ready.recv_timeout(DEADLINE)?;
        Ok(Plaintext { arrived, stop, running })
    }

    fn none_arrived(self) -> Outcome {
        self.stop.store(true, SeqCst);
        self.running.join()?;
        assert_eq!(self.arrived.load(SeqCst), 0, "connections passed in plain text");
        Ok(())
    }
}

fn nft(arguments: &[&str]) -> bool {
    Command::new("nft").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Fifty flushes and fifty deletions by others while connections are made; then the proxy is killed.
pub(crate) fn no_plaintext_during_flushes_and_after_a_kill() -> Outcome {
    if !installed(&["nft"]) {
        return Ok(());
    }
    let pair = Pair::new()?;
    let plaintext = Plaintext::serve(&pair)?;
    pair.this.run(|| async {
        let mut held = Held::start()?;
        let flushed = Arc::new(AtomicBool::new(false));
        let done = flushed.clone();
        // A thread of this one is in the same namespace.
        let rival = std::thread::spawn(move || {
            for _ in 0..FLUSHES {
                assert!(nft(&["flush", "ruleset"]), "a flush of one's own rules works");
                assert!(!nft(&["delete", "table", "inet", "isthmus"]), "another's table was deleted");
                assert!(!nft(&["flush", "chain", "inet", "isthmus", "outbound"]), "another's chain was flushed");
            }
            done.store(true, SeqCst);
        });
        let mut made = 0;
        while !flushed.load(SeqCst) || made < FLUSHES {
            for to in PLAIN {
                connect(to, None).await?;
                made += 1;
            }
        }
        rival.join().map_err(|_| "the rival failed")?;
        held.kill()?;
        for _ in 0..FLUSHES {
            for to in PLAIN {
                let outcome = connect(to, None).await.map_err(|error| error.kind());
                assert_eq!(outcome.err(), Some(std::io::ErrorKind::ConnectionRefused));
            }
        }
        // The next proxy takes the table over as it stands, and again nobody can flush it.
        let next = Proxy::capturing(|_| ()).await?;
        assert!(nft(&["flush", "ruleset"]));
        connect(PLAIN[0], None).await?;
        taken(&next.outbound).await?;
        Ok(())
    })?;
    plaintext.none_arrived()
}

/// Plans replace each other while connections are made.
pub(crate) fn no_plaintext_while_plans_change() -> Outcome {
    let pair = Pair::new()?;
    let plaintext = Plaintext::serve(&pair)?;
    pair.this.run(|| async {
        let Proxy { outbound, inbound: _inbound, mut scope, mut capture } = Proxy::capturing(|_| ()).await?;
        let applied = Arc::new(AtomicBool::new(false));
        let done = applied.clone();
        let changing = std::thread::spawn(move || {
            for round in 0..300 {
                scope.exclude_outbound_ports = vec![1000 + round % 7];
                capture.apply(&Plan::new(&scope)).expect("a plan that differs in a port");
            }
            done.store(true, SeqCst);
            capture
        });
        let mut made = 0;
        while !applied.load(SeqCst) || made < FLUSHES {
            for to in PLAIN {
                let (app, _) = tokio::try_join!(connect(to, None), timeout_accept(&outbound))?;
                drop(app);
                made += 1;
            }
        }
        drop(changing.join().map_err(|_| "a plan was not applied")?);
        Ok(())
    })?;
    plaintext.none_arrived()
}

async fn timeout_accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    Ok(timeout(DEADLINE, listener.accept()).await.map_err(|_| std::io::Error::other("nothing was captured"))??.0)
}

/// Where the kernel protects nothing, a change is heard and put right.
pub(crate) async fn unprotected_rules_come_back_at_once() -> Outcome {
    if !installed(&["nft"]) {
        return Ok(());
    }
    let mut changes = Changes::open()?;
    let mut proxy = Proxy::new()?;
    proxy.capture = Capture::open(Protection::Unowned)?;
    let plan = Plan::new(&proxy.scope);
    assert_eq!(proxy.capture.apply(&plan)?, Applied::New);
    // Our own change is heard too, and changes nothing.
    timeout(DEADLINE, changes.next()).await?;
    assert_eq!(proxy.capture.apply(&plan)?, Applied::AsItWas);
    let changed: [&[&str]; 4] = [
        &["flush", "ruleset"],
        &["delete", "table", "inet", "isthmus"],
        &["flush", "chain", "inet", "isthmus", "outbound"],
        &["insert", "rule", "inet", "isthmus", "outbound", "accept"],
    ];
    for change in changed {
        assert!(nft(change), "nft {change:?}");
        timeout(DEADLINE, changes.next()).await?;
        assert_ne!(proxy.capture.apply(&plan)?, Applied::AsItWas, "after nft {change:?}");
        assert_eq!(proxy.capture.standing(&plan)?, Standing::InForce { owned: false, persistent: false });
        let _app = connect(PLAIN[0], None).await?;
        taken(&proxy.outbound).await?;
    }
    // What others do to tables of their own is none of our business.
    while timeout(std::time::Duration::from_millis(20), changes.next()).await.is_ok() {}
    assert!(nft(&["add", "table", "inet", "somebody-elses"]));
    assert!(timeout(std::time::Duration::from_millis(20), changes.next()).await.is_err());
    Ok(())
}
