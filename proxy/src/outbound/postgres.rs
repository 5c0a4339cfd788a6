//! PostgreSQL on the way out: its requests for encryption before a gate that wants TLS, and what a client is told when its
//! server cannot be reached. Capture has accepted its connection already, and
//! libpq tries its next host after a failed connect or after `cannot_connect_now` (57P03, since version 14), but never
//! after a reset: so it gets 57P03, as a server that is starting up would say it.
//!
//! A client that insists on TLS gets no further than our `N`, which its driver takes for the end: where such a client
//! must fail over, its driver has to (pgjdbc does).

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::detect::{POSTGRES_GSS_REQUEST, POSTGRES_SSL_REQUEST, WireVersion};
use crate::reason::Reason;
use crate::tcp;
use crate::tls::gate::{self, Gate, GateError};

/// The client sends its first packets at once.
const DEADLINE: Duration = Duration::from_secs(5);
/// PostgreSQL's own bound for a startup packet.
const MAX_STARTUP: usize = 10_000;
/// Protocol 3: the major version in a StartupMessage.
const PROTOCOL_3: u32 = 3;

/// Reads as far as the StartupMessage and answers it with the error; RST where it is none.
pub(super) async fn cannot_connect_now(mut app: TcpStream, reason: Reason) -> io::Result<()> {
    let told = tokio::time::timeout(DEADLINE, tell(&mut app, reason)).await;
    match told {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) | Err(_) => {
            tcp::reset(app);
            Ok(())
        }
        Ok(Err(error)) => {
            tcp::reset(app);
            Err(error)
        }
    }
}

/// Towards an endpoint without sidecar, where policy wants TLS: lets the request for it pass, then the hellos. `held` was
/// read from the app already.
pub(super) async fn open_gate(
    app: &mut TcpStream,
    mut held: BytesMut,
    server: &mut TcpStream,
    minimum: WireVersion,
) -> Result<Gate, GateError> {
    let asked = tokio::time::timeout(DEADLINE, ask_for_tls(app, &mut held, server)).await;
    asked.map_err(|_| GateError::Timeout)??;
    gate::open(app, BytesMut::new(), server, minimum).await
}

async fn ask_for_tls(app: &mut TcpStream, held: &mut BytesMut, server: &mut TcpStream) -> Result<(), GateError> {
    for _ in 0..2 {
        let mut head = [0u8; 8];
        let from_held = held.len().min(head.len());
        head[..from_held].copy_from_slice(&held.split_to(from_held));
        app.read_exact(&mut head[from_held..]).await?;
        if head == *POSTGRES_GSS_REQUEST && held.is_empty() {
            // In the server's place: whatever it can do, here only TLS counts.
            app.write_all(b"N").await?;
            continue;
        }
        // Bytes behind the request were not asked for yet (CVE-2021-23222).
        if head != *POSTGRES_SSL_REQUEST || !held.is_empty() {
            return Err(GateError::NotTls("the PostgreSQL client asks for no TLS"));
        }
        server.write_all(&head).await?;
        let mut answer = [0u8; 1];
        server.read_exact(&mut answer).await?;
        if answer != *b"S" {
            return Err(GateError::NotTls("the PostgreSQL server offers no TLS"));
        }
        app.write_all(&answer).await?;
        return Ok(());
    }
    Err(GateError::NotTls("the PostgreSQL client asks for GSSAPI again and again"))
}

async fn tell(app: &mut TcpStream, reason: Reason) -> io::Result<bool> {
    // SSLRequest, GSSENCRequest, StartupMessage: three packets at most.
    for _ in 0..3 {
        let mut head = [0u8; 8];
        app.read_exact(&mut head).await?;
        if head == *POSTGRES_SSL_REQUEST || head == *POSTGRES_GSS_REQUEST {
            app.write_all(b"N").await?;
            continue;
        }
        let [a, b, c, d, major_high, major_low, ..] = head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if u32::from(u16::from_be_bytes([major_high, major_low])) != PROTOCOL_3 || !(8..=MAX_STARTUP).contains(&length)
        {
            return Ok(false);
        }
        let mut rest = vec![0; length - head.len()];
        app.read_exact(&mut rest).await?;
        app.write_all(&error_response(reason)).await?;
        app.shutdown().await?;
        return Ok(true);
    }
    Ok(false)
}

/// ErrorResponse: `E`, its length, then fields of a letter and a text each.
fn error_response(reason: Reason) -> Vec<u8> {
    let message = format!("the mesh cannot reach the server: {}", reason.word());
    let mut fields = Vec::new();
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P03"), (b'M', message.as_str())] {
        fields.push(kind);
        fields.extend_from_slice(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    [&[b'E'][..], &length.to_be_bytes(), &fields].concat()
}
