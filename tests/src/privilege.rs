//! The first step of every program that makes a world: the right to make network namespaces, as root or as an
//! ordinary user through a user namespace. Refuses with the cause and its fix where this machine allows neither.

use std::fmt;
use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use rustix::mount::{MountPropagationFlags, mount_change};

/// In whose name the namespaces are made. Some things differ, and the demo says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Real root: every user id can be taken.
    Root,
    /// Root inside a user namespace: only our own user id exists, others are nested namespaces.
    UserNamespace,
}

/// Why no namespaces can be made here. Its text ends with what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot make network namespaces here ({step}: {source}).\nCause: {cause}\nFix:   {}", cause.fix())]
pub struct PrivilegeError {
    step: &'static str,
    source: io::Error,
    /// The cause that was recognised.
    pub cause: Cause,
}

/// What forbids the namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Ubuntu ≥ 23.10: `kernel.apparmor_restrict_unprivileged_userns=1`.
    AppArmor,
    /// `user.max_user_namespaces=0`.
    NoUserNamespaces,
    /// Debian's `kernel.unprivileged_userns_clone=0`.
    UnprivilegedClone,
    /// Seccomp filter of a container (Docker's default profile).
    Seccomp,
    /// SELinux is enforcing and refused.
    SeLinux,
    /// Root without CAP_SYS_ADMIN or CAP_NET_ADMIN, as in a container with dropped capabilities.
    DroppedCapabilities,
    /// `/proc/sys` is mounted read-only, so that no namespace of ours could be made to forward.
    ReadOnlySettings,
    /// `enter` was called after threads were started: a mistake of the program.
    Threads,
    /// None of the known causes.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppArmor => "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns = 1)",
            Self::NoUserNamespaces => "user namespaces are switched off (user.max_user_namespaces = 0)",
            Self::UnprivilegedClone => "user namespaces are for root only (kernel.unprivileged_userns_clone = 0)",
            Self::Seccomp => "a seccomp filter forbids it; this looks like a container with the default profile",
            Self::SeLinux => "SELinux is enforcing and forbids it",
            Self::DroppedCapabilities => "we are root, but without CAP_SYS_ADMIN and CAP_NET_ADMIN",
            Self::ReadOnlySettings => "/proc/sys is read-only, as containers have it",
            Self::Threads => "the program had started threads before it asked (a mistake in this program)",
            Self::Unknown => "not one that we know",
        })
    }
}

impl Cause {
    /// What to do about it, in one line.
    pub fn fix(self) -> &'static str {
        match self {
            Self::AppArmor => {
                "run it with sudo, or: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (until reboot)"
            }
            Self::NoUserNamespaces => "run it with sudo, or: sudo sysctl -w user.max_user_namespaces=15000",
            Self::UnprivilegedClone => "run it with sudo, or: sudo sysctl -w kernel.unprivileged_userns_clone=1",
            Self::Seccomp => {
                "docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined \
                 --security-opt apparmor=unconfined --security-opt systempaths=unconfined … (or --privileged)"
            }
            Self::SeLinux => "run it with sudo in an unconfined domain, or look at: ausearch -m avc -ts recent",
            Self::DroppedCapabilities => "docker run --privileged …, or run it as root outside of the container",
            Self::ReadOnlySettings => "docker run --security-opt systempaths=unconfined … (or --privileged)",
            Self::Threads => "call isthmus_world::privilege::enter() first in main(), before a runtime exists",
            Self::Unknown => "run it with sudo, on a Linux kernel with CONFIG_USER_NS and CONFIG_NET_NS",
        }
    }
}

/// Gets the right to make network namespaces. Call it at the very start of `main`: a process with more than one
/// thread cannot enter a user namespace (unshare(2)).
///
/// # Errors
/// Where neither root nor a user namespace is to be had; names the cause and the fix.
pub fn enter() -> Result<Privilege, PrivilegeError> {
    if !has_namespace_capabilities() {
        enter_user_namespace()?;
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| refused("making a mount namespace", error.into()))?;
    // Nothing that is mounted from here on may be seen outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| refused("making mounts private", error.into()))?;
    // Tried once here, so that a refusal is explained here and not in the middle of building.
    std::thread::scope(|scope| scope.spawn(try_network_namespace).join())
        .unwrap_or_else(|_| Err(refused("making a network namespace", io::Error::other("the thread panicked"))))?;
    Ok(current())
}

/// Whose rights the process has now.
pub fn current() -> Privilege {
    if maps_all_users() { Privilege::Root } else { Privilege::UserNamespace }
}

/// On a thread of its own: the thread, and with it the namespace, is gone afterwards.
fn try_network_namespace() -> Result<(), PrivilegeError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("making a network namespace", error.into()))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| refused("making a namespace forward", error))
}

fn enter_user_namespace() -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| refused("making a user namespace", error.into()))?;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (file, text) in maps {
        fs::write(file, text).map_err(|error| refused("mapping our user into the user namespace", error))?;
    }
    Ok(())
}

fn refused(step: &'static str, source: io::Error) -> PrivilegeError {
    let cause = Evidence::gather(&source).cause();
    PrivilegeError { step, source, cause }
}

/// CAP_NET_ADMIN and CAP_SYS_ADMIN in the effective set (bits 12 and 21, linux/capability.h).
fn has_namespace_capabilities() -> bool {
    const NEEDED: u64 = (1 << 12) | (1 << 21);
    status_field("CapEff")
        .and_then(|text| u64::from_str_radix(&text, 16).ok())
        .is_some_and(|set| set & NEEDED == NEEDED)
}

/// True in the initial user namespace, and in one that maps every id.
pub(crate) fn maps_all_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What is known of this machine when a step was refused. Separate from the judgement, so that the judgement is
/// tested without such machines.
#[derive(Debug, Default, Clone)]
struct Evidence {
    errno: Option<i32>,
    root: bool,
    apparmor_restricts: bool,
    max_user_namespaces_zero: bool,
    unprivileged_clone_zero: bool,
    seccomp_filter: bool,
    selinux_enforcing: bool,
    threads: u32,
}

impl Evidence {
    fn gather(error: &io::Error) -> Self {
        let setting = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        Self {
            errno: error.raw_os_error(),
            root: Uid::effective().is_root() && maps_all_users(),
            apparmor_restricts: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            max_user_namespaces_zero: setting("/proc/sys/user/max_user_namespaces") == "0",
            unprivileged_clone_zero: setting("/proc/sys/kernel/unprivileged_userns_clone") == "0",
            seccomp_filter: status_field("Seccomp").as_deref() == Some("2"),
            selinux_enforcing: setting("/sys/fs/selinux/enforce") == "1",
            threads: status_field("Threads").and_then(|text| text.parse().ok()).unwrap_or(1),
        }
    }

    /// The most specific setting first: each of the later ones may be present without being the cause.
    fn cause(&self) -> Cause {
        const EINVAL: i32 = 22;
        const EROFS: i32 = 30;
        if self.errno == Some(EINVAL) && self.threads > 1 {
            Cause::Threads
        } else if self.errno == Some(EROFS) {
            Cause::ReadOnlySettings
        } else if self.max_user_namespaces_zero {
            Cause::NoUserNamespaces
        } else if !self.root && self.unprivileged_clone_zero {
            Cause::UnprivilegedClone
        } else if self.seccomp_filter {
            Cause::Seccomp
        } else if self.root {
            Cause::DroppedCapabilities
        } else if self.apparmor_restricts {
            Cause::AppArmor
        } else if self.selinux_enforcing {
            Cause::SeLinux
        } else {
            Cause::Unknown
        }
    }
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
    Some(line.split(':').nth(1)?.trim().to_owned())
}

#[cfg(test)]
#[path = "privilege_test.rs"]
mod privilege_test;
