//! OpenSSH on a port of its own: both sides speak first, files go both ways, a side that has finished says so.

use std::fs;

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::{self};
use isthmus_world::privilege::{Privilege, current};

use crate::shop::{DEADLINE, NAME, Shop, VIP};
use crate::{Case, require};

const PROGRAMS: &[&str] = &["sshd", "ssh", "scp", "ssh-keygen"];

pub(crate) const CASES: &[Case] = &[
    ("ssh_runs_a_command_and_sees_its_end", PROGRAMS, command),
    ("ssh_on_a_port_that_says_nothing", PROGRAMS, detected),
    ("ssh_copies_a_file_there_and_back", PROGRAMS, copies),
    ("ssh_is_refused_for_who_is_not_allowed", PROGRAMS, refused),
    ("tcp_half_close_reaches_the_other_side", &[], half_close),
];

/// sshd changes users, and cannot where only one exists.
fn is_root() -> bool {
    let root = current() == Privilege::Root;
    if !root {
        eprintln!("SKIPPED: OpenSSH's server needs real root");
    }
    root
}

fn command(shop: &Shop) -> Result<(), String> {
    runs_command(shop, 2222)
}

fn detected(shop: &Shop) -> Result<(), String> {
    runs_command(shop, 2223)
}

fn runs_command(shop: &Shop, port: u16) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    let sshd = shop.sshd()?;
    let there = format!("root@{NAME}");
    let run = || {
        let arguments = [&there, "echo \"$SSH_CONNECTION\"; exit 7"];
        sshd.client(shop.host("web"), "ssh", port, &arguments, DEADLINE).map_err(|e| e.to_string())
    };
    let done = shop.crossing(1, run)?;
    let said = || format!("{}{}\n{}", done.stdout, done.stderr, sshd.log());
    require(done.status.code() == Some(7) && done.stdout.trim().ends_with(" fd00:20::1:10 2222"), said)
}

fn copies(shop: &Shop) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    let sshd = shop.sshd()?;
    let files = ["up", "there", "back"].map(|name| shop.file(name).display().to_string());
    let [up, there, back] = files.each_ref().map(String::as_str);
    let text: String = (0..1_500_000).map(|number| format!("{number:x}-scp\n")).collect();
    fs::write(up, &text).map_err(|e| e.to_string())?;
    let remote = format!("root@{NAME}:{there}");
    for (from, to) in [(up, remote.as_str()), (remote.as_str(), back)] {
        let copy = || sshd.client(shop.host("web"), "scp", 2222, &[from, to], DEADLINE).map_err(|e| e.to_string());
        let done = shop.crossing(1, copy)?;
        require(done.status.success(), || format!("{}{}\n{}", done.stdout, done.stderr, sshd.log()))?;
    }
    for file in [there, back] {
        let copied = fs::read(file).map_err(|e| e.to_string())?;
        require(copied == text.as_bytes(), || format!("{file} has {} bytes of {}", copied.len(), text.len()))?;
    }
    Ok(())
}

fn refused(shop: &Shop) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    shop.sshd()?;
    shop.refuses_batch(2222, b"SSH-2.0-test\r\n")
}

/// The client has said all, and still gets the answer; then the end. 8 MB, so that the answer is not there already.
fn half_close(shop: &Shop) -> Result<(), String> {
    let any = std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 7000));
    let _server = apps::echo_server(shop.host("orders"), any).map_err(|e| e.to_string())?;
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let to = std::net::SocketAddr::new(VIP.parse().expect("an address"), 7000);
    // All is written before anything is read: more than the buffers on the way hold would wait for ever.
    let small = bytes[..100_000].to_vec();
    for bytes in [small, Vec::new()] {
        let sent = bytes.clone();
        let exchange = || Ok(raw::exchange(shop.host("web"), to, sent, Then::HalfClose, DEADLINE));
        let answer = shop.crossing(1, exchange)?;
        let whole = answer.bytes == bytes && answer.end == End::Closed;
        require(whole, || format!("{} of {} bytes, {:?}", answer.bytes.len(), bytes.len(), answer.end))?;
    }
    Ok(())
}
