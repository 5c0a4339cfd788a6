//! The gate that an app's own TLS passes. A ClientHello proves nothing: only it is forwarded, and nothing after it (early
//! data included) until a ServerHello came back that chose an acceptable version. A HelloRetryRequest chooses a version
//! too, but what counts is the ServerHello after it.
//!
//! What the client sends meanwhile stays in the kernel's buffers: it is held, and it is bounded.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::detect::client_hello::{self, Parsed};
use crate::detect::record::MAX_HELLO;
use crate::detect::{WireVersion, server_hello};
use crate::reason::Reason;

/// Both hellos, of both sides.
pub const GATE_DEADLINE: Duration = Duration::from_secs(10);

/// The level of an alert that ends nothing (RFC 5246, 7.2).
const WARNING: u8 = 1;

/// The gate is open: what was read and not forwarded yet.
#[derive(Debug)]
pub struct Gate {
    /// Goes to the server before anything else.
    pub to_server: BytesMut,
    /// Goes to the client before anything else.
    pub to_client: BytesMut,
    /// What the ServerHello chose.
    pub version: WireVersion,
}

/// Why the gate stays shut.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("the client speaks at most TLS {0}, which is below the policy's minTlsVersion")]
    ClientVersion(WireVersion),
    #[error("the server chose TLS {0}, which is below the policy's minTlsVersion")]
    ServerVersion(WireVersion),
    #[error("not a TLS handshake: {0}")]
    NotTls(&'static str),
    /// Between the two apps: the alert was passed on.
    #[error("the server refused the handshake by itself")]
    RefusedByServer,
    #[error("no complete handshake within {GATE_DEADLINE:?}")]
    Timeout,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl GateError {
    /// The refusal it is, if it is one of ours and not the apps' own affair.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            GateError::ClientVersion(_) | GateError::ServerVersion(_) => Some(Reason::TlsVersion),
            GateError::NotTls(_) => Some(Reason::Plaintext),
            GateError::Timeout => Some(Reason::Timeout),
            GateError::RefusedByServer | GateError::Io(_) => None,
        }
    }
}

/// Reads the whole ClientHello, of which `held` was read already, and checks the newest version it offers. To be called
/// before the server is dialled: a client that is too old costs the server nothing.
pub async fn read_client_hello<C: AsyncRead + Unpin>(
    client: &mut C,
    held: &mut BytesMut,
    minimum: WireVersion,
) -> Result<client_hello::ClientHello, GateError> {
    let (hello, _) = deadline(read_hello(client, held, client_hello::parse)).await??;
    if hello.newest < minimum {
        return Err(GateError::ClientVersion(hello.newest));
    }
    Ok(hello)
}

/// Passes the hellos between both sides until the gate may open. `held` starts with a complete ClientHello.
pub async fn open<C, S>(client: &mut C, held: BytesMut, server: &mut S, minimum: WireVersion) -> Result<Gate, GateError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    deadline(pass_hellos(client, held, server, minimum)).await?
}

async fn pass_hellos<C, S>(
    client: &mut C,
    mut held: BytesMut,
    server: &mut S,
    minimum: WireVersion,
) -> Result<Gate, GateError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = BytesMut::new();
    let mut retried = false;
    loop {
        let (offer, wire_len) = read_hello(client, &mut held, client_hello::parse).await?;
        if offer.newest < minimum {
            return Err(GateError::ClientVersion(offer.newest));
        }
        server.write_all(&held.split_to(wire_len)).await?;
        server.flush().await?;
        let (choice, wire_len) = server_choice(client, server, &mut answer).await?;
        if choice.version < minimum {
            return Err(GateError::ServerVersion(choice.version));
        }
        if !choice.retry {
            return Ok(Gate { to_server: held, to_client: answer, version: choice.version });
        }
        if retried {
            return Err(GateError::NotTls("two HelloRetryRequests"));
        }
        retried = true;
        client.write_all(&answer.split_to(wire_len)).await?;
        client.flush().await?;
    }
}

/// Reads the ServerHello. Alerts before it are passed on; one that is only a warning ends nothing: some
/// servers say `unrecognized_name` (RFC 6066, 3), and then their hello.
async fn server_choice<C, S>(
    client: &mut C,
    server: &mut S,
    answer: &mut BytesMut,
) -> Result<(server_hello::ServerHello, usize), GateError>
where
    C: AsyncWrite + Unpin,
    S: AsyncRead + Unpin,
{
    loop {
        match read_hello(server, answer, server_hello::parse).await {
            Err(GateError::RefusedByServer) => {}
            read => return read,
        }
        let Parsed::Alert(wire_len) = server_hello::parse(answer) else { return Err(GateError::RefusedByServer) };
        let alert = answer.split_to(wire_len);
        client.write_all(&alert).await?;
        client.flush().await?;
        // Level and description end the record.
        if alert.len().checked_sub(2).and_then(|level| alert.get(level)) != Some(&WARNING) {
            return Err(GateError::RefusedByServer);
        }
    }
}

/// Reads until `parse` has a whole hello. `bytes` keeps everything, the hello included.
async fn read_hello<R: AsyncRead + Unpin, T>(
    from: &mut R,
    bytes: &mut BytesMut,
    parse: fn(&[u8]) -> Parsed<T>,
) -> Result<(T, usize), GateError> {
    loop {
        match parse(bytes) {
            Parsed::Hello(hello, wire_len) => return Ok((hello, wire_len)),
            Parsed::Alert(_) => return Err(GateError::RefusedByServer),
            Parsed::Invalid(why) => return Err(GateError::NotTls(why)),
            // Records may carry one byte each; nobody's hello is that wasteful.
            Parsed::Incomplete if bytes.len() > 2 * MAX_HELLO => return Err(GateError::NotTls("hello without end")),
            Parsed::Incomplete => {}
        }
        if from.read_buf(bytes).await? == 0 {
            return Err(GateError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

async fn deadline<T>(work: impl Future<Output = T>) -> Result<T, GateError> {
    tokio::time::timeout(GATE_DEADLINE, work).await.map_err(|_| GateError::Timeout)
}
