//! How a child process starts: through ourselves. `argv[1] == "__world-exec"` sets the death signal, takes the user id
//! that was asked for, and becomes the program. No external helper is needed, and the death signal is set by the
//! child itself, which is the only one who can.
//!
//! `__world-exec <parent's process id>:<its thread id> <uid, uid+net_admin or -> <program> <arguments…>`

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities, set_keep_capabilities,
};

/// The word in `argv[1]` by which a program knows that it is only a start of another one.
pub(crate) const MARK: &str = "__world-exec";

/// Behind a user id: CAP_NET_ADMIN stays.
pub(crate) const NET_ADMIN: &str = "+net_admin";

/// Exit status when the program could not be started, as shells have it.
const CANNOT_START: i32 = 127;

/// Call this first in `main`, before threads and before arguments are parsed. Returns at once in the ordinary case;
/// never, when this process was started by the world to become another program.
pub fn child_entry() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != MARK) {
        return;
    }
    let error = become_program(arguments);
    eprintln!("{MARK}: {error}");
    std::process::exit(CANNOT_START);
}

/// Returns only if something failed.
fn become_program(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let (Some(parent), Some(user), Some(program)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return io::Error::other("too few arguments; this is an internal way to start children");
    };
    if user != "-" {
        let words = user.to_str().unwrap_or_default();
        let (number, net_admin) = words.strip_suffix(NET_ADMIN).map_or((words, false), |number| (number, true));
        let Ok(uid) = number.parse() else {
            return io::Error::other("the user id is not a number");
        };
        if let Err(error) = take_user(uid, net_admin) {
            return io::Error::new(error.kind(), format!("taking user id {uid}: {error}"));
        }
    }
    // After the change of user: that change clears the death signal (prctl(2)).
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The thread that started us may have ended before the line above; then nobody would ever send the signal.
    if !parent.to_str().is_some_and(thread_lives) {
        return io::Error::other("the world that started this is gone");
    }
    let error = Command::new(&program).args(arguments).exec();
    io::Error::new(error.kind(), format!("{}: {error}", program.to_string_lossy()))
}

/// How the parent writes where the death signal is to come from: the thread that starts the child.
pub(crate) fn this_thread() -> String {
    format!("{}:{}", std::process::id(), rustix::thread::gettid().as_raw_nonzero())
}

/// True when our parent is that process, and still has that thread.
fn thread_lives(parent: &str) -> bool {
    let Some((process, thread)) = parent.split_once(':') else {
        return false;
    };
    getppid().is_some_and(|pid| process == Pid::as_raw(Some(pid)).to_string())
        && Path::new(&format!("/proc/{process}/task/{thread}")).exists()
}

/// Real root changes to that user. In a user namespace only our own id exists, so another one is taken by a nested
/// namespace that maps it: the program sees itself as `uid`, the kernel still sees the user who started the world.
fn take_user(uid: u32, net_admin: bool) -> io::Result<()> {
    if crate::privilege::maps_all_users() {
        set_keep_capabilities(net_admin)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(uid))?;
        setuid(Uid::from_raw(uid))?;
        return if net_admin { keep_net_admin() } else { Ok(()) };
    }
    if net_admin {
        return Err(io::Error::other("CAP_NET_ADMIN under another user id needs real root, not a user namespace"));
    }
    let (outer_uid, outer_gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("{uid} {outer_gid} 1"))?;
    fs::write("/proc/self/uid_map", format!("{uid} {outer_uid} 1"))?;
    Ok(())
}

/// Leaves this one capability, in the sets that survive becoming the program (capabilities(7), ambient).
fn keep_net_admin() -> io::Result<()> {
    let only = CapabilitySet::NET_ADMIN;
    set_capabilities(None, CapabilitySets { effective: only, permitted: only, inheritable: only })?;
    Ok(configure_capability_in_ambient_set(only, true)?)
}
