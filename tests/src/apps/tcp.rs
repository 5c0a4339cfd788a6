//! Servers that do not speak HTTP: an echo that keeps half-closed connections open, and one that speaks first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::{Counts, Server};
use crate::error::Error;
use crate::host::Host;

/// Sends back what it gets. When the client has finished sending, it still gets the rest, and then the end.
///
/// # Errors
/// When the address cannot be listened on.
pub fn echo_server(host: &Host, address: SocketAddr) -> Result<Server, Error> {
    Server::start(host, address, |stream, _, counts| echo(stream, counts))
}

/// Says `banner` before it has read anything, then echoes. As SMTP, SSH and MySQL do.
///
/// # Errors
/// When the address cannot be listened on.
pub fn greeter(host: &Host, address: SocketAddr, banner: impl Into<Vec<u8>>) -> Result<Server, Error> {
    let banner: Arc<[u8]> = banner.into().into();
    Server::start(host, address, move |mut stream, _, counts| {
        let banner = Arc::clone(&banner);
        async move {
            if stream.write_all(&banner).await.is_ok() {
                echo(stream, counts).await;
            }
        }
    })
}

async fn echo(mut stream: TcpStream, counts: Arc<Counts>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                if stream.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let _ = stream.shutdown().await;
}
