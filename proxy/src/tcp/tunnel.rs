//! Copies between a TCP connection and one HTTP/2 stream, which is how opaque bytes travel between two sidecars.
//! FIN is END_STREAM, RST is RST_STREAM, in both directions; flow control holds both ways, so that a slow reader at one
//! end stops the writer at the other.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::copy::{Copied, write_all};

/// Reads grow from the first to the second while the connection fills them, so that many small connections stay small.
const SMALL_READ: usize = 4 * 1024;
const LARGE_READ: usize = 256 * 1024;

/// Copies both ways until both directions ended. An error of either side becomes RST on the TCP side and RST_STREAM on
/// the other. `copied.sent` counts what went from TCP into the stream. The stream's own direction may come later: data
/// leaves with a tunnel's headers, before the answer is there.
pub async fn copy_tunnel<E: From<io::Error>>(
    tcp: &TcpStream,
    to_stream: &mut SendStream<Bytes>,
    from_stream: impl Future<Output = Result<RecvStream, E>>,
    copied: &Copied,
) -> Result<(), E> {
    let down = async {
        let mut stream = from_stream.await?;
        stream_to_tcp(&mut stream, tcp, &copied.received).await.map_err(E::from)
    };
    let up = async { tcp_to_stream(tcp, to_stream, &copied.sent).await.map_err(E::from) };
    let result = tokio::try_join!(up, down);
    if result.is_err() {
        super::mark_reset(tcp);
        to_stream.send_reset(h2::Reason::CANCEL);
    }
    result.map(|_| ())
}

async fn tcp_to_stream(tcp: &TcpStream, stream: &mut SendStream<Bytes>, count: &Cell<u64>) -> io::Result<()> {
    let mut size = SMALL_READ;
    loop {
        readable_or_reset(tcp, stream).await?;
        let mut buffer = BytesMut::with_capacity(size);
        match tcp.try_read_buf(&mut buffer) {
            Ok(0) => {
                stream.send_data(Bytes::new(), true).map_err(into_io)?;
                return Ok(());
            }
            Ok(read) => {
                size = if read == size { (size * 4).min(LARGE_READ) } else { read.next_power_of_two().max(SMALL_READ) };
                send_all(stream, buffer.freeze()).await.map_err(into_io)?;
                count.set(count.get() + read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for bytes, or for the peer's RST_STREAM: an idle tunnel must end when the other side's connection did.
async fn readable_or_reset(tcp: &TcpStream, stream: &mut SendStream<Bytes>) -> io::Result<()> {
    tokio::select! {
        biased;
        ready = tcp.readable() => ready,
        reset = poll_fn(|cx| stream.poll_reset(cx)) => Err(match reset {
            Ok(reason) => io::Error::new(io::ErrorKind::ConnectionReset, reason.description()),
            Err(error) => into_io(error),
        }),
    }
}

/// Sends as the peer's windows allow: h2 would queue without bound.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = match stream.capacity() {
            0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                // The stream was closed under us.
                None => return Err(h2::Reason::CANCEL.into()),
            },
            room => room,
        };
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, false)?;
    }
    Ok(())
}

async fn stream_to_tcp(stream: &mut RecvStream, tcp: &TcpStream, count: &Cell<u64>) -> io::Result<()> {
    while let Some(bytes) = stream.data().await {
        let bytes = bytes.map_err(into_io)?;
        write_all(tcp, &bytes).await?;
        count.set(count.get() + bytes.len() as u64);
        // Only now may the peer send more: what waits here is bounded by the stream's window.
        let _ = stream.flow_control().release_capacity(bytes.len());
    }
    SockRef::from(tcp).shutdown(Shutdown::Write)
}

pub(crate) fn into_io(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::BrokenPipe };
    io::Error::new(kind, error)
}
