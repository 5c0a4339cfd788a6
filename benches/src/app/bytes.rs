//! A TCP app: the first byte of a connection says what becomes of the rest. `E` returns all bytes, `S` takes them, `D`
//! sends for as long as the other side reads.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Returns what it reads, this byte included.
pub(crate) const ECHO: u8 = b'E';
/// Reads only.
pub(crate) const SINK: u8 = b'S';
/// Writes only.
pub(crate) const SOURCE: u8 = b'D';
/// A read or write of bulk data.
pub(crate) const CHUNK: usize = 256 << 10;
/// An idle connection of thousands must cost this app little.
const SMALL: usize = 512;

/// Serves each connection until its client is gone.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Owned by its connection: it ends when the client does, or with this process.
        tokio::spawn(async move {
            // The client is the one that tells what went wrong.
            let _ = converse(stream).await;
        });
    }
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut small = [0; SMALL];
    let read = stream.read(&mut small).await?;
    match small[..read].first() {
        Some(&ECHO) => echo(stream, small, read).await,
        Some(&SINK) => {
            let mut chunk = vec![0; CHUNK];
            while stream.read(&mut chunk).await? > 0 {}
            Ok(())
        }
        Some(&SOURCE) => {
            let chunk = vec![SOURCE; CHUNK];
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Some(_) | None => Ok(()),
    }
}

async fn echo(mut stream: TcpStream, mut bytes: [u8; SMALL], mut read: usize) -> io::Result<()> {
    while read > 0 {
        stream.write_all(&bytes[..read]).await?;
        read = stream.read(&mut bytes).await?;
    }
    Ok(())
}
