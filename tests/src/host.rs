//! A host: one network namespace with a hosts file of its own, and two threads that live in it as long as it does. One
//! runs closures and starts children (their death signal fires when the thread that started them ends, so it must be
//! long-lived), the other runs a tokio runtime for servers and clients of the world itself.

use std::fs::{self, File};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

use crate::command::Command;
use crate::error::Error;
use crate::process::{Finished, Process};

type Job = Box<dyn FnOnce() + Send>;

/// How long a runtime may take to end; only a blocking call inside of it can take any.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// A network namespace with the threads that hold it. Clones are handles on the same host; the last one ends it.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    addresses: OnceLock<(Ipv4Addr, Ipv6Addr)>,
    /// `None` only while it is dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    started: Started,
    files: TempDir,
}

/// What the host's thread hands out when it is inside its namespace.
struct Started {
    namespace: File,
    thread: u32,
    runtime: Handle,
    runtime_thread: ThreadId,
}

impl Host {
    /// A host without any interface but a loopback that is down.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or a mount.
    pub fn new(name: &str) -> Result<Self, Error> {
        let doing = format!("making host {name}");
        let files = TempDir::with_prefix("isthmus-host-").map_err(|error| Error::system(&doing, error))?;
        let hosts = files.path().join("hosts");
        fs::write(&hosts, hosts_text(name, &[])).map_err(|error| Error::system(&doing, error))?;
        let (jobs, queue) = sync_channel::<Job>(16);
        let (report, started) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("host-{name}"))
            .spawn(move || live(&hosts, &report, &queue))
            .map_err(|error| Error::system(&doing, error))?;
        let started = match started.recv() {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(Error::system(doing, error)),
            Err(_) => return Err(Error::Unexpected(format!("{doing}: its thread died"))),
        };
        let inner = Inner {
            name: name.to_owned(),
            addresses: OnceLock::new(),
            jobs: Some(jobs),
            thread: Mutex::new(Some(thread)),
            started,
            files,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name in the world.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its IPv4 address. Unspecified (0.0.0.0) before it was attached to a site.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.addresses.get().map_or(Ipv4Addr::UNSPECIFIED, |(v4, _)| *v4)
    }

    /// Its IPv6 address. Unspecified (::) before it was attached to a site, and on a kernel without IPv6.
    pub fn address_v6(&self) -> Ipv6Addr {
        self.inner.addresses.get().map_or(Ipv6Addr::UNSPECIFIED, |(_, v6)| *v6)
    }

    /// `port` at its IPv4 address.
    pub fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address()), port)
    }

    /// A directory of this host, removed with it: configuration, state, sockets.
    pub fn files(&self) -> &Path {
        self.inner.files.path()
    }

    /// Runs `work` on the host's thread, so that sockets it makes are the host's. Blocks until it is done; a panic
    /// inside is a panic here.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, result) = sync_channel(1);
        let job = Box::new(move || {
            // The receiver is below and waits; if it is gone, its thread is dead and nobody misses the answer.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let jobs = self.inner.jobs.as_ref().expect("jobs are taken only in drop");
        jobs.send(job).expect("the host's thread lives as long as the host");
        match result.recv().expect("the host's thread answers each job") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a program in this host. It dies with the host, also when this process is killed.
    ///
    /// # Errors
    /// When the program is not found or cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process, Error> {
        let label = format!("{}/{}", self.name(), command.label());
        self.run(move || Process::start(command, label))
    }

    /// Runs a program to its end and collects its output; kills it at the deadline.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than `deadline`.
    pub fn output(&self, command: Command, deadline: Duration) -> Result<Finished, Error> {
        self.spawn(command)?.finish(deadline)
    }

    /// The host's tokio runtime: one thread inside the namespace.
    pub fn runtime(&self) -> &Handle {
        &self.inner.started.runtime
    }

    /// Runs `future` in the host and waits for it. Not to be called from a task of the same host.
    pub fn block_on<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        assert_ne!(
            thread::current().id(),
            self.inner.started.runtime_thread,
            "block_on from inside {}'s own runtime would wait for itself",
            self.name()
        );
        let (answer, result) = sync_channel(1);
        self.runtime().spawn(async move {
            let _ = answer.send(future.await);
        });
        result.recv().expect("a task on a host panicked; its message is above")
    }

    /// Runs `future` in the host until it ends or the returned task is dropped.
    pub fn tokio<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Task(self.runtime().spawn(future))
    }

    /// Replaces the host's `/etc/hosts` (the entries for itself stay).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_hosts(&self, entries: &[(IpAddr, &str)]) -> Result<(), Error> {
        // Written in place: the bind mount holds this inode.
        let text = hosts_text(self.name(), entries);
        fs::write(self.files().join("hosts"), text)
            .map_err(|error| Error::system(format!("writing the hosts file of {}", self.name()), error))
    }

    /// A shell command with which a user can look into this host while the world is up.
    pub fn enter_command(&self) -> String {
        let user = match crate::privilege::current() {
            crate::privilege::Privilege::Root => "",
            crate::privilege::Privilege::UserNamespace => " --user --preserve-credentials",
        };
        format!("nsenter --target {}{user} --net --mount", self.inner.started.thread)
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.inner.started.namespace.as_fd()
    }

    pub(crate) fn set_addresses(&self, v4: Ipv4Addr, v6: Ipv6Addr) {
        // A host is attached once; a second attachment would keep the first addresses.
        let _ = self.inner.addresses.set((v4, v6));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // The last handle may have been moved into the host's own job or task; then the threads end by themselves.
        let here = thread::current().id();
        if thread.thread().id() != here && self.started.runtime_thread != here {
            let _ = thread.join();
        }
    }
}

/// A future that runs in a host; dropping it ends the future.
#[derive(Debug)]
pub struct Task<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// A task of the runtime that the calling task runs in.
    pub(crate) fn here(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl<T> Task<T> {
    /// Waits for its end.
    ///
    /// # Panics
    /// When the task panicked.
    pub async fn join(mut self) -> T {
        (&mut self.0).await.expect("a task on a host panicked; its message is above")
    }

    /// True when it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The host's thread: enters new namespaces, then serves jobs until the host is dropped.
fn live(hosts: &Path, report: &SyncSender<std::io::Result<Started>>, queue: &Receiver<Job>) {
    match enter_namespaces(hosts).and_then(start_runtime) {
        Ok((started, stop, runtime_thread)) => {
            let _ = report.send(Ok(started));
            for job in queue {
                job();
            }
            drop(stop);
            let _ = runtime_thread.join();
        }
        Err(error) => {
            let _ = report.send(Err(error));
        }
    }
}

fn enter_namespaces(hosts: &Path) -> std::io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if Path::new("/etc/hosts").exists() {
        mount_bind(hosts, "/etc/hosts")?;
    }
    File::open("/proc/thread-self/ns/net")
}

fn start_runtime(namespace: File) -> std::io::Result<(Started, oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    let name = thread::current().name().unwrap_or("host").replace("host-", "tokio-");
    // A thread inherits the namespaces of the thread that starts it.
    let thread = thread::Builder::new().name(name).spawn(move || drive(runtime, stopped))?;
    let started = Started {
        namespace,
        thread: rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(),
        runtime: handle,
        runtime_thread: thread.thread().id(),
    };
    Ok((started, stop, thread))
}

fn drive(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // The sender is never used: it is dropped when the host ends.
    let _ = runtime.block_on(stopped);
    runtime.shutdown_timeout(RUNTIME_END);
}

fn hosts_text(name: &str, entries: &[(IpAddr, &str)]) -> String {
    let mut text = format!("127.0.0.1 localhost {name}\n::1 localhost ip6-localhost\n");
    for (address, names) in entries {
        text.push_str(&format!("{address} {names}\n"));
    }
    text
}
