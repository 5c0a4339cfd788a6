//! One HTTP/1.1 request of our own loads, and its whole answer.

use std::io;
use std::net::SocketAddr;

/// As any client would ask for it.
pub(crate) fn get(target: SocketAddr) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {target}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// Whether `bytes` are a whole answer. An error if it is no 200 or of unknown length.
pub(crate) fn is_whole(bytes: &[u8]) -> io::Result<bool> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("answered: {}", head.lines().next().unwrap_or_default())));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(bytes.len() >= end + 4 + length)
}

#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
