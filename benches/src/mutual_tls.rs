//! Before a number is believed: the callee's side demands a client certificate and speaks nothing below TLS 1.3. A
//! client of our own tries it, with a control arm: what is refused without a certificate is served with one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use isthmus_world::Host;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
    version,
};

use crate::certificates::Leaf;

/// How long a server may think. One that waits longer for a client without a certificate has not refused it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The HTTP/2 preface with empty SETTINGS (RFC 9113, 3.4): any server answers it with its own.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// A message of three bytes, whose first field is the app's port as a varint; then what the app is to return.
const LINKERD_HEADER_AND_ECHO: &[u8] = b"transport.l5d.io/v1\r\n\r\n\0\0\0\x03\x08\x90\x3fE";
const _: () = assert!(crate::stage::APP_PORT == 0x1f << 8 | 0x90);
const HTTP1_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n";

/// Whom to try, and how.
pub(crate) struct Asked<'a> {
    pub(crate) from: &'a Host,
    pub(crate) address: SocketAddr,
    pub(crate) name: &'a str,
    pub(crate) speaks: Speaks,
}

/// What a server that lets a client in answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// Bytes to our own app behind it, which returns them ([`crate::app::bytes`]).
    Echo,
    /// Between sidecars of ours; nothing is said.
    Isthmus,
    /// To a linkerd2-proxy that leads bytes to our own app: a header says to which port.
    LinkerdOpaque,
}

impl Speaks {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Isthmus => vec![b"isthmus/1".to_vec()],
            Self::LinkerdOpaque => vec![b"transport.l5d.io/v1".to_vec()],
            Self::Echo => Vec::new(),
        }
    }

    fn first_words(self) -> &'static [u8] {
        match self {
            Self::Http1 => HTTP1_REQUEST,
            Self::Http2 => HTTP2_PREFACE,
            Self::Echo => b"E",
            Self::Isthmus => b"",
            Self::LinkerdOpaque => LINKERD_HEADER_AND_ECHO,
        }
    }
}

/// What was agreed with a client that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) cipher: String,
    pub(crate) group: String,
}

/// How the peer protects itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// None where we have no certificate that it would take.
    pub(crate) handshake: Option<Handshake>,
    /// What a client without a certificate got.
    pub(crate) stranger: String,
    /// What a client without TLS got, where the same port might serve it.
    pub(crate) plaintext: Option<String>,
}

/// What became of an attempt.
#[derive(Debug)]
enum Attempt {
    Served(Handshake),
    Refused(String),
    Silent,
}

/// Proves that the peer serves `leaf`, and nobody who shows nothing or comes with TLS 1.2.
pub(crate) fn prove(asked: &Asked<'_>, leaf: &Leaf) -> Result<Proof, String> {
    let say = asked.speaks.first_words();
    let handshake = match asked.attempt(&version::TLS13, Some(leaf), say)? {
        Attempt::Served(handshake) => handshake,
        other => {
            return Err(format!("{} does not serve a client with a good certificate: {other:?}", asked.address));
        }
    };
    match asked.attempt(&version::TLS12, Some(leaf), say)? {
        Attempt::Refused(_) => {}
        other => return Err(format!("{} does not refuse TLS 1.2: {other:?}", asked.address)),
    }
    Ok(Proof { handshake: Some(handshake), ..refuses_strangers(asked)? })
}

/// Proves only that nobody without a certificate is served, for a peer whose certificates we do not have.
pub(crate) fn refuses_strangers(asked: &Asked<'_>) -> Result<Proof, String> {
    // nginx says no in HTTP only. Elsewhere nothing is said: bytes that nobody reads would turn the alert into a reset.
    let say = if asked.speaks == Speaks::Http1 { HTTP1_REQUEST } else { b"" };
    match asked.attempt(&version::TLS13, None, say)? {
        Attempt::Refused(stranger) => Ok(Proof { handshake: None, stranger, plaintext: None }),
        other => Err(format!("{} does not refuse a client without a certificate: {other:?}", asked.address)),
    }
}

/// Proves besides that nobody is served in plaintext, for a peer that looks at what comes and would take that too.
pub(crate) fn refuses_plaintext(asked: &Asked<'_>, proof: Proof) -> Result<Proof, String> {
    let (address, say) = (asked.address, asked.speaks.first_words());
    let attempt = asked.from.run(move || {
        let (mut first, mut tcp) = ([0; 64], connect(address)?);
        let spoken = exchange(&mut tcp, say, &mut first);
        Ok::<_, io::Error>(judge(spoken, &first, || Handshake { cipher: "none".to_owned(), group: "none".to_owned() }))
    });
    match attempt.map_err(|error| format!("{address}: {error}"))? {
        Attempt::Refused(plaintext) => Ok(Proof { plaintext: Some(plaintext), ..proof }),
        other => Err(format!("{address} does not refuse plaintext: {other:?}")),
    }
}

impl Asked<'_> {
    fn attempt(
        &self,
        version: &'static SupportedProtocolVersion,
        leaf: Option<&Leaf>,
        say: &'static [u8],
    ) -> Result<Attempt, String> {
        let config = client_config(version, leaf, self.speaks).map_err(|error| format!("a TLS client: {error}"))?;
        let name = ServerName::try_from(self.name.to_owned()).map_err(|error| format!("{}: {error}", self.name))?;
        let connection =
            ClientConnection::new(Arc::new(config), name).map_err(|error| format!("a TLS client: {error}"))?;
        let address = self.address;
        self.from.run(move || converse(connection, address, say)).map_err(|error| format!("{address}: {error}"))
    }
}

fn client_config(
    version: &'static SupportedProtocolVersion,
    leaf: Option<&Leaf>,
    speaks: Speaks,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anyone = Arc::new(AnyServer(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(anyone);
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let (chain, key) = leaf.credentials();
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = speaks.alpn();
    Ok(config)
}

/// In TLS 1.3 a client believes itself connected before the server has looked at its certificate, so that only the
/// first bytes of the application tell.
fn converse(connection: ClientConnection, address: SocketAddr, say: &[u8]) -> io::Result<Attempt> {
    let mut tls = StreamOwned::new(connection, connect(address)?);
    let mut first = [0; 64];
    let spoken = exchange(&mut tls, say, &mut first);
    let agreed = || Handshake {
        cipher: tls.conn.negotiated_cipher_suite().map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        group: tls.conn.negotiated_key_exchange_group().map_or_else(String::new, |group| format!("{:?}", group.name())),
    };
    Ok(judge(spoken, &first, agreed))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

fn exchange(stream: &mut (impl Read + Write), say: &[u8], first: &mut [u8]) -> io::Result<usize> {
    stream.write_all(say)?;
    stream.flush()?;
    stream.read(first)
}

fn judge(spoken: io::Result<usize>, first: &[u8], agreed: impl FnOnce() -> Handshake) -> Attempt {
    match spoken {
        Ok(0) => Attempt::Refused("closed".to_owned()),
        Ok(read) if first[..read].starts_with(b"HTTP/1.1 4") => {
            Attempt::Refused(String::from_utf8_lossy(&first[..read]).lines().next().unwrap_or_default().to_owned())
        }
        Ok(_) => Attempt::Served(agreed()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Attempt::Silent,
        Err(error) => Attempt::Refused(error.to_string()),
    }
}

/// This client asks what a server demands, not who it is.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
