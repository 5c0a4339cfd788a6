//! By what this machine joins: a token, a certificate that it already has, or what Azure says of it. And whom it trusts
//! for that: a token says so itself, otherwise the operator does.

use std::path::{Path, PathBuf};

use isthmus_certs::{JoinToken, RootFingerprint, TrustDomain, foreign};
use serde_json::Value;

use super::Args;
use super::secret;
use crate::failure::Failure;

/// systemd hands the files to the service; the proxy's user cannot read the machine's key itself.
const CREDENTIALS: &str = "/run/credentials/isthmus-proxy.service";

/// Whom this machine trusts at first contact.
#[derive(Clone, Debug)]
pub(super) struct Anchor {
    pub(super) address: String,
    pub(super) trust_domain: TrustDomain,
    pub(super) root: RootFingerprint,
}

/// What the proxy will show.
pub(super) enum Shown {
    /// The token's one line.
    Token {
        text: String,
        id: String,
        warning: Option<String>,
    },
    Certificate {
        authority: String,
        certificate: PathBuf,
        key: PathBuf,
    },
    Azure,
}

impl From<&JoinToken> for Anchor {
    fn from(token: &JoinToken) -> Self {
        Self { address: token.address.clone(), trust_domain: token.trust_domain.clone(), root: token.root }
    }
}

/// Reads what the command line says, and what it names. Nothing is sent.
pub(super) fn read(args: &Args) -> Result<(Anchor, Shown), Failure> {
    let shown = match (&args.certificate, &args.key, args.azure) {
        (Some(certificate), Some(key), _) => own_certificate(args, certificate, key)?,
        (_, _, true) => Shown::Azure,
        _ => {
            let given = secret::read(args.token_file.as_deref())?;
            let (anchor, id) = (Anchor::from(&given.token), given.token.id.clone());
            return Ok((anchor, Shown::Token { text: given.text, id, warning: given.warning }));
        }
    };
    // clap has asked for all three.
    let missing = || Failure::usage("whom to trust is not said", "--control-plane, --trust-domain and --root");
    let anchor = Anchor {
        address: args.control_plane.clone().ok_or_else(missing)?,
        trust_domain: args.trust_domain.clone().ok_or_else(missing)?,
        root: args.root.ok_or_else(missing)?,
    };
    Ok((anchor, shown))
}

/// Tried here, where the error is seen, and not first by a service in the background.
fn own_certificate(args: &Args, certificate: &Path, key: &Path) -> Result<Shown, Failure> {
    let read = |path: &Path| {
        let failed = |e| Failure::new(format!("{}: {e}", path.display()), "check the path, and run as root");
        std::fs::read(path).map_err(failed)
    };
    let both = (read(certificate)?, zeroize::Zeroizing::new(read(key)?));
    foreign::sign(&both.0, &both.1, b"a trial").map_err(|e| {
        Failure::new(
            format!("{} and {}: {e}", certificate.display(), key.display()),
            "give the machine's certificate (with the CAs above it) and its private key, both PEM, not encrypted",
        )
    })?;
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Failure::plain(e.to_string()));
    Ok(Shown::Certificate {
        authority: args.authority.clone(),
        certificate: absolute(certificate)?,
        key: absolute(key)?,
    })
}

impl Shown {
    /// The lines of proxy.yaml. `systemd`: the service gets the files from it.
    pub(super) fn config(&self, anchor: &Anchor, config_dir: &Path, systemd: bool) -> String {
        // JSON strings are YAML strings, whatever is in them.
        let quoted = |text: &str| Value::from(text).to_string();
        let address = quoted(&anchor.address);
        let first = format!(
            "controlPlane: {{ address: {address}, trustDomain: {}, root: {} }}\n",
            anchor.trust_domain, anchor.root
        );
        match self {
            Self::Token { .. } => {
                let token = config_dir.join("join-token").display().to_string();
                format!("controlPlane: {{ address: {address} }}\njoinTokenFile: {}\n", quoted(&token))
            }
            Self::Certificate { authority, certificate, key } => {
                let (certificate, key) = match systemd {
                    true => (format!("{CREDENTIALS}/certificate"), format!("{CREDENTIALS}/key")),
                    false => (certificate.display().to_string(), key.display().to_string()),
                };
                format!(
                    "{first}enrol:\n  certificate: {{ authority: {}, certificateFile: {}, keyFile: {} }}\n",
                    quoted(authority),
                    quoted(&certificate),
                    quoted(&key)
                )
            }
            Self::Azure => format!("{first}enrol: {{ azure: {{}} }}\n"),
        }
    }

    /// The unit, with the files that systemd is to hand over.
    pub(super) fn unit(&self, unit: String) -> String {
        match self {
            Self::Certificate { certificate, key, .. } => {
                let load = format!(
                    "[Service]\nLoadCredential=certificate:{}\nLoadCredential=key:{}\n",
                    certificate.display(),
                    key.display()
                );
                unit.replacen("[Service]\n", &load, 1)
            }
            Self::Token { .. } | Self::Azure => unit,
        }
    }

    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Token { text, .. } => Some(text),
            Self::Certificate { .. } | Self::Azure => None,
        }
    }

    pub(super) fn token_id(&self) -> Option<&str> {
        match self {
            Self::Token { id, .. } => Some(id),
            Self::Certificate { .. } | Self::Azure => None,
        }
    }

    pub(super) fn warning(&self) -> Option<&str> {
        match self {
            Self::Token { warning, .. } => warning.as_deref(),
            Self::Certificate { .. } | Self::Azure => None,
        }
    }
}
