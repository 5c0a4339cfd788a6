//! A scripted TLS 1.1 client and server, where no openssl is found. Only the first flight: enough for anybody on the way
//! to see the version, and for both ends to know whether it got through. No keys are ever made.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{self, Answer, Then};
use super::server::Server;
use crate::error::Error;
use crate::host::Host;

/// TLS 1.1 on the wire (RFC 4346).
const VERSION: [u8; 2] = [0x03, 0x02];
/// Content types and handshake types of RFC 4346 6.2.1 and 7.4.
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// TLS_RSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA: what TLS 1.1 still had.
const CIPHERS: [u8; 4] = [0x00, 0x2f, 0xc0, 0x13];

/// What a TLS 1.1 client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A ServerHello of TLS 1.1: it got through to the app.
    ServerHello,
    /// An alert with this description (70 is protocol_version).
    Alert(u8),
    /// The connection ended without a word.
    Nothing,
    /// Something else.
    Other,
}

/// Sends a TLS 1.1 ClientHello (no supported_versions extension) from `host` and tells what came back.
pub fn hello(host: &Host, to: SocketAddr, server_name: &str, deadline: Duration) -> (Heard, Answer) {
    let answer = raw::exchange(host, to, client_hello(server_name), Then::HalfClose, deadline);
    let heard = match answer.bytes.as_slice() {
        [] => Heard::Nothing,
        [HANDSHAKE, _, _, _, _, SERVER_HELLO, _, _, _, 3, 2, ..] => Heard::ServerHello,
        [ALERT, _, _, _, _, _, description, ..] => Heard::Alert(*description),
        _ => Heard::Other,
    };
    (heard, answer)
}

/// A server that answers a TLS 1.1 ClientHello with a ServerHello and closes. `requests` counts complete ClientHellos.
///
/// # Errors
/// When the address cannot be listened on.
pub fn server(host: &Host, address: SocketAddr) -> Result<Server, Error> {
    Server::start(host, address, |mut stream, _, counts| async move {
        let mut head = [0; 5];
        if stream.read_exact(&mut head).await.is_err() || head[0] != HANDSHAKE {
            return;
        }
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        if stream.read_exact(&mut body).await.is_err() || body.first() != Some(&CLIENT_HELLO) {
            return;
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(&server_hello()).await;
        let _ = stream.shutdown().await;
    })
}

/// The bytes of a TLS 1.1 ClientHello with a server name.
pub fn client_hello(server_name: &str) -> Vec<u8> {
    let mut body = VERSION.to_vec();
    body.extend([0x11; 32]);
    body.push(0); // no session
    prefixed(&mut body, &CIPHERS);
    body.extend([1, 0]); // no compression
    let mut name = vec![0]; // host_name
    prefixed(&mut name, server_name.as_bytes());
    let mut names = Vec::new();
    prefixed(&mut names, &name);
    let mut extensions = vec![0, 0]; // server_name (RFC 6066)
    prefixed(&mut extensions, &names);
    prefixed(&mut body, &extensions);
    record(CLIENT_HELLO, &body)
}

fn server_hello() -> Vec<u8> {
    let mut body = VERSION.to_vec();
    body.extend([0x22; 32]);
    body.push(0); // no session
    body.extend([CIPHERS[0], CIPHERS[1], 0]);
    record(SERVER_HELLO, &body)
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0];
    prefixed(&mut message, body);
    let mut record = vec![HANDSHAKE, VERSION[0], VERSION[1]];
    prefixed(&mut record, &message);
    record
}

/// Appends `bytes` behind their length in two bytes.
fn prefixed(to: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("nothing here is longer than a record");
    to.extend(length.to_be_bytes());
    to.extend(bytes);
}
