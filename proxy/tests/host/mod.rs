//! Two hosts with a cable between them, as network namespaces.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;
use std::thread;

use isthmus_netlink::Links;
use libtest_mimic::Failed;
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const THIS_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 10);
pub(crate) const OTHER_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 1);
pub(crate) const THIS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10);
pub(crate) const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 1);

/// Lets an ordinary user make network namespaces. Must be called while the process has one thread.
pub(crate) fn become_root_of_a_user_namespace() {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if uid.is_root() {
        return;
    }
    let made = unshare(CloneFlags::CLONE_NEWUSER);
    made.expect("this test needs network namespaces: run it as root, or allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)");
    std::fs::write("/proc/self/setgroups", "deny").expect("setgroups");
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("uid_map");
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("gid_map");
}

/// One network namespace; gone when this and its sockets are.
pub(crate) struct Host {
    namespace: File,
}

/// The host under test, with a default route to the other one.
pub(crate) struct Pair {
    pub(crate) this: Host,
    pub(crate) other: Host,
}

impl Pair {
    pub(crate) fn new() -> Result<Pair, Failed> {
        let pair = Pair { this: Host::new()?, other: Host::new()? };
        let far_end = pair.other.namespace.try_clone()?;
        pair.this.run(move || async move {
            let mut links = Links::open()?;
            links.add_pair("eth0", "eth0", &far_end, 1500)?;
            configure(&mut links, THIS_V4, THIS_V6)
        })?;
        pair.other.run(|| async {
            let mut links = Links::open()?;
            configure(&mut links, OTHER_V4, OTHER_V6)?;
            for far in ["10.96.0.1", "10.97.1.1"] {
                links.add_address("eth0", far.parse()?, 32)?;
            }
            for far in ["fd00:96::1", "fd00:97::1"] {
                links.add_address("eth0", far.parse()?, 128)?;
            }
            Ok(())
        })?;
        pair.this.run(|| async {
            let mut links = Links::open()?;
            links.add_route((Ipv4Addr::UNSPECIFIED.into(), 0), "eth0", Some(OTHER_V4.into()))?;
            links.add_route((Ipv6Addr::UNSPECIFIED.into(), 0), "eth0", Some(OTHER_V6.into()))?;
            Ok(())
        })?;
        Ok(pair)
    }
}

fn configure(links: &mut Links, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<(), Failed> {
    links.up("lo")?;
    links.up("eth0")?;
    links.add_address("eth0", IpAddr::V4(v4), 24)?;
    links.add_address("eth0", IpAddr::V6(v6), 64)?;
    Ok(())
}

/// Work under way in a host.
pub(crate) struct Running(thread::JoinHandle<Result<(), Failed>>);

impl Running {
    pub(crate) fn join(self) -> Result<(), Failed> {
        self.0.join().map_err(|panic| Failed::from(text_of(&*panic)))?
    }
}

impl Host {
    fn new() -> Result<Host, Failed> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made.join().map_err(|_| "the thread that makes a namespace panicked")??;
        Ok(Host { namespace })
    }

    /// Runs `work` to its end in this host.
    pub(crate) fn run<F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<(), Failed>
    where
        F: Future<Output = Result<(), Failed>>,
    {
        self.start(|_| work()).1.join()
    }

    /// Starts `work` in this host; it may say when it is ready.
    pub(crate) fn start<F>(
        &self,
        work: impl FnOnce(mpsc::Sender<()>) -> F + Send + 'static,
    ) -> (mpsc::Receiver<()>, Running)
    where
        F: Future<Output = Result<(), Failed>>,
    {
        let (ready, seen) = mpsc::channel();
        let namespace = self.namespace.try_clone();
        let thread = thread::spawn(move || {
            setns(namespace?, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work(ready))
        });
        (seen, Running(thread))
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}
