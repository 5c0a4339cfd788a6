//! An application's own TLS: a certificate that it made itself, and a client that looks at nothing but the version.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme, SupportedProtocolVersion};

use crate::error::Error;

/// A TLS version that the built-in client can be held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A self-signed certificate with its key.
pub struct SelfSigned {
    certificate: CertificateDer<'static>,
    key: rcgen::KeyPair,
    certificate_pem: String,
}

impl SelfSigned {
    /// For these DNS names or addresses.
    ///
    /// # Errors
    /// When a name is none.
    pub fn new(names: &[&str]) -> Result<Self, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| Error::Unexpected(format!("making a self-signed certificate: {error}")))?;
        Ok(Self { certificate: made.cert.der().clone(), certificate_pem: made.cert.pem(), key: made.signing_key })
    }

    /// PEM, for whoever is to trust it.
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes `certificate.pem` and `key.pem` (0600) into a directory, for programs that want files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, PathBuf), Error> {
        let paths = (directory.join("certificate.pem"), directory.join("key.pem"));
        let doing = || format!("writing a certificate to {}", directory.display());
        for (path, text) in [(&paths.0, &self.certificate_pem), (&paths.1, &self.key.serialize_pem())] {
            let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| Error::system(doing(), error))?;
        }
        Ok(paths)
    }

    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .expect("the provider has suites for both versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .expect("rcgen makes keys that rustls can use");
        Arc::new(config)
    }
}

/// A client that takes any certificate (`curl --insecure`), at one version or at both.
pub(super) fn any_certificate_client(version: Option<TlsVersion>) -> Arc<ClientConfig> {
    const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];
    let versions = match version {
        Some(TlsVersion::Tls12) => &BOTH[..1],
        Some(TlsVersion::Tls13) => &BOTH[1..],
        None => BOTH,
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What the test is about is who talks to whom below this TLS, not whom the app trusts.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
