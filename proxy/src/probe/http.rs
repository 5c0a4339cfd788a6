//! One GET; the status line is all that counts. What comes after it is left unread.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tcp::{DialOptions, dial};

/// A status line is a tenth of that.
const MOST: usize = 512;

pub(super) async fn ask(at: SocketAddr, path: &str, options: DialOptions) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("GET http://{at}{path}: {error}");
    let mut stream = dial(at, options).await.map_err(failed)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: isthmus-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::with_capacity(MOST);
    while head.len() < MOST && !head.contains(&b'\n') {
        let mut piece = [0; MOST];
        match stream.read(&mut piece).await.map_err(failed)? {
            0 => break,
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    match status(&head) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET http://{at}{path}: {status}")),
        None => Err(format!("GET http://{at}{path}: what came back is no HTTP")),
    }
}

/// Of `HTTP/1.1 200 OK`.
pub(super) fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, after) = rest.split_at_checked(3)?;
    let ends = after.first().is_none_or(|byte| *byte == b' ');
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (ends && digits.iter().all(u8::is_ascii_digit) && status >= 100).then_some(status)
}
