//! Certificates for the peers, as a mesh would issue them: P-256, a SPIFFE id and, for those that check only host names,
//! a DNS name. Made anew in each run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The caller's and the callee's files, and their authority's.
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    /// For a peer whose control plane signs what its proxies ask for.
    pub(crate) authority_key: PathBuf,
    pub(crate) caller: Leaf,
    pub(crate) callee: Leaf,
}

/// One side's identity.
pub(crate) struct Leaf {
    pub(crate) dns_name: String,
    pub(crate) spiffe_id: String,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Certificate and key in one file, as HAProxy wants it.
    pub(crate) both: PathBuf,
    der: (CertificateDer<'static>, Vec<u8>),
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Certificates {
    pub(crate) fn make(dir: &Path) -> Result<Self, String> {
        let issuer = authority().map_err(|error| format!("making a certificate authority: {error}"))?;
        let authority = dir.join("authority.pem");
        fs::write(&authority, issuer.pem()).map_err(|error| format!("writing {}: {error}", authority.display()))?;
        let authority_key = dir.join("authority.key");
        write_secret(&authority_key, issuer.key().serialize_pem().as_bytes())?;
        let (caller, callee) = (Leaf::make(dir, "caller", &issuer)?, Leaf::make(dir, "callee", &issuer)?);
        Ok(Self { authority, authority_key, caller, callee })
    }
}

impl Leaf {
    fn make(dir: &Path, name: &str, issuer: &Authority) -> Result<Self, String> {
        let dns_name = format!("{name}.bench.example");
        let spiffe_id = format!("spiffe://bench.example/ns/bench/sa/{name}");
        let (certificate_pem, key_pem, der) = leaf(&dns_name, &spiffe_id, issuer)
            .map_err(|error| format!("making the certificate of {name}: {error}"))?;
        let path = |ending: &str| dir.join(format!("{name}{ending}"));
        let leaf = Self { dns_name, spiffe_id, certificate: path(".crt"), key: path(".key"), both: path(".pem"), der };
        write_secret(&leaf.certificate, certificate_pem.as_bytes())?;
        write_secret(&leaf.key, key_pem.as_bytes())?;
        write_secret(&leaf.both, format!("{certificate_pem}{key_pem}").as_bytes())?;
        Ok(leaf)
    }

    /// For a client of our own.
    pub(crate) fn credentials(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.der.0.clone()], PrivatePkcs8KeyDer::from(self.der.1.clone()).into())
    }
}

fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

type Made = (String, String, (CertificateDer<'static>, Vec<u8>));

fn leaf(dns_name: &str, spiffe_id: &str, issuer: &Authority) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![dns_name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, dns_name);
    params.subject_alt_names.push(SanType::URI(spiffe_id.try_into()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem(), (certificate.der().clone(), key.serialize_der())))
}

/// For its owner only.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|error| format!("writing {}: {error}", path.display()))
}
