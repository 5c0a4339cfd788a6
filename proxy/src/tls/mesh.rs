//! The handshake of a mesh connection, from both ends: TLS 1.3, both certificates checked, one deadline, and the protocol
//! that both speak.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{IdentityStore, PeerError, PeerIdentity, peer_identity};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ConnectionCommon, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::socket::prepare;
use super::stamped::Stamped;

/// The protocol between two sidecars: HTTP/2 with the L7 form and internal headers.
pub const ALPN: &[u8] = b"isthmus/1";
/// HBONE as others speak it: HTTP/2 with CONNECT and nothing else.
pub const ALPN_HBONE: &[u8] = b"h2";
/// What both ends offer, the better first.
pub const PROTOCOLS: &[&[u8]] = &[ALPN, ALPN_HBONE];

/// What the two ends of a mesh connection agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshProtocol {
    /// Requests and tunnels, with internal headers.
    Isthmus,
    /// Tunnels only. No internal header is sent or believed.
    Hbone,
}
/// A handshake is two round trips of a link that may have 300 ms; a peer that needs longer than this is not there.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// What one write may hold of encrypted bytes: with rustls' 64 KiB, a large frame leaves in four calls or more.
const ENCRYPTED_AT_ONCE: usize = 512 * 1024;

/// Who the peer proved to be.
pub type MeshPeerId = PeerIdentity;

/// Why there is no mesh connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("{0}")]
    Peer(PeerError),
    #[error("the handshake broke: {0}. Is there a mesh proxy at the other end?")]
    Io(io::Error),
    #[error("no handshake within {HANDSHAKE_DEADLINE:?}")]
    Timeout,
    /// TCP connected, and then nothing came. The hello may have been too large for the way.
    #[error("no answer to the ClientHello: the peer is silent, or a middlebox drops large segments")]
    Silent,
}

impl HandshakeError {
    fn from_io(error: io::Error) -> Self {
        match PeerError::from_io(&error) {
            Some(peer) => HandshakeError::Peer(peer),
            None => HandshakeError::Io(error),
        }
    }

    /// With what `identity` knows of our own certificate: TLS alone knows only that none was shown.
    pub fn with_own_fault(self, identity: &IdentityStore) -> Self {
        match self {
            HandshakeError::Peer(error) => HandshakeError::Peer(identity.own_fault(error)),
            other => other,
        }
    }

    /// One word for metric and log.
    pub fn word(&self) -> &'static str {
        match self {
            HandshakeError::Peer(error) => error.word(),
            HandshakeError::Io(_) => "not-tls",
            HandshakeError::Timeout => "timeout",
            HandshakeError::Silent => "silent",
        }
    }
}

/// What TLS gives the two ends of a connection, the same to both and to nobody else (RFC 8446 §7.5): they know by it what they
/// need not say.
pub type InCommon = [u8; 24];

/// None, where the handshake is not over.
pub fn in_common<D>(connection: &ConnectionCommon<D>) -> Option<InCommon> {
    connection.export_keying_material([0; 24], b"EXPERIMENTAL isthmus trace", None).ok()
}

/// Accepts a mesh connection; the peer's certificate was checked against the bundle of this moment.
pub async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(server::TlsStream<Stamped>, MeshPeerId, MeshProtocol), HandshakeError> {
    prepare(&stream);
    let mut stream = deadline(TlsAcceptor::from(config).accept(Stamped::new(stream))).await?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(ENCRYPTED_AT_ONCE));
    let (peer, protocol) = identify(connection.peer_certificates(), connection.alpn_protocol())?;
    Ok((stream, peer, protocol))
}

/// Connects to a mesh peer, which must be one of those that `config` expects. [`HandshakeError::Silent`] when not one
/// byte came back within `first_answer`.
pub async fn connect(
    stream: TcpStream,
    peer: IpAddr,
    config: Arc<ClientConfig>,
    first_answer: Duration,
) -> Result<(client::TlsStream<Stamped>, MeshPeerId, MeshProtocol), HandshakeError> {
    prepare(&stream);
    let stream = Stamped::new(stream);
    let came = stream.last_read();
    let handshake = deadline(TlsConnector::from(config).connect(ServerName::from(peer), stream));
    tokio::pin!(handshake);
    let mut stream = match tokio::time::timeout(first_answer, handshake.as_mut()).await {
        Ok(done) => done?,
        Err(_) if came.bytes_read() == 0 => return Err(HandshakeError::Silent),
        Err(_) => handshake.await?,
    };
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(ENCRYPTED_AT_ONCE));
    let (peer, protocol) = identify(connection.peer_certificates(), connection.alpn_protocol())?;
    Ok((stream, peer, protocol))
}

async fn deadline<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    tokio::time::timeout(HANDSHAKE_DEADLINE, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout)?
        .map_err(HandshakeError::from_io)
}

/// Without ALPN in common nothing is known of what the peer would send; rustls lets a peer pass that offers none.
fn identify(
    certificates: Option<&[CertificateDer<'_>]>,
    alpn: Option<&[u8]>,
) -> Result<(MeshPeerId, MeshProtocol), HandshakeError> {
    let protocol = match alpn {
        Some(ALPN) => MeshProtocol::Isthmus,
        Some(ALPN_HBONE) => MeshProtocol::Hbone,
        Some(_) | None => return Err(HandshakeError::Peer(PeerError::NoCommonProtocol)),
    };
    let peer = peer_identity(certificates.unwrap_or_default()).map_err(HandshakeError::Peer)?;
    Ok((peer, protocol))
}
