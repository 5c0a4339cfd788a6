//! Who the operator is to the control plane: a file that the control plane writes at its first start, with an address,
//! the roots to trust, a certificate and its key. Refused where others on the machine could read the key.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_certs::TrustDomain;
use serde::Deserialize;

use crate::context::Contexts;
use crate::failure::Failure;
use crate::span;

/// The file is a few KiB; whatever is larger is something else.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct OperatorArgs {
    /// The operator's credentials, as the control plane wrote them (`operator.yaml` in its state directory).
    ///
    /// Without it: that of the context; without any: ~/.config/isthmus/operator.yaml.
    #[arg(long, env = "ISTHMUS_OPERATOR", value_name = "FILE", help_heading = "Control plane")]
    pub(crate) operator: Option<PathBuf>,
    /// Which control plane, by the name that `isthmus context add` gave it.
    #[arg(long, env = "ISTHMUS_CONTEXT", value_name = "NAME", help_heading = "Control plane")]
    pub(crate) context: Option<String>,
    /// Connect here instead of the address in that file, for example through a tunnel.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Control plane")]
    pub(crate) address: Option<String>,
    /// How long one request may take, connecting included.
    #[arg(long, default_value = "10s", value_parser = span::parse, value_name = "DURATION", help_heading = "Control plane")]
    pub(crate) request_timeout: Duration,
}

/// `operator.yaml`, read but not yet believed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OperatorFile {
    address: String,
    trust_domain: String,
    roots: String,
    certificate: String,
    key: String,
}

/// Credentials to reach one control plane. PEM texts, as in the file.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) address: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) roots: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// Where it came from, for messages.
    pub(crate) path: PathBuf,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Operator");
        debug.field("address", &self.address).field("path", &self.path).field("key", &"<redacted>").finish()
    }
}

impl Operator {
    pub(crate) fn find(args: &OperatorArgs) -> Result<Self, Failure> {
        let (path, address) = match &args.operator {
            Some(path) => (path.clone(), None),
            None => Self::of_context(args.context.as_deref())?,
        };
        let mut operator = Self::read(&path)?;
        if let Some(address) = args.address.clone().or(address) {
            operator.address = address;
        }
        Ok(operator)
    }

    /// That of the context that is asked for or in use, else the file at its usual place.
    fn of_context(name: Option<&str>) -> Result<(PathBuf, Option<String>), Failure> {
        let dir = config_dir()?;
        let contexts = Contexts::read(&dir.join("contexts.yaml"))?;
        match name.or(contexts.current.as_deref()) {
            Some(name) => contexts.find(name).map(|found| (found.operator.clone(), found.address.clone())),
            None => Ok((dir.join("operator.yaml"), None)),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_private(path)?;
        let parsed: OperatorFile = serde_saphyr::from_str(&text).map_err(|e| {
            // The parser's message may quote the line it stumbled over, and that line may be the key.
            let place = e.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default();
            Failure::new(
                format!("{}{place}: this is not an operator file", path.display()),
                "copy operator.yaml again from the control plane's state directory; it holds address, trustDomain, \
                 roots, certificate and key",
            )
        })?;
        let trust_domain = TrustDomain::parse(&parsed.trust_domain).map_err(|e| {
            Failure::new(format!("{}: trustDomain: {e}", path.display()), "copy operator.yaml again, unchanged")
        })?;
        Ok(Self {
            address: parsed.address,
            trust_domain,
            roots: parsed.roots,
            certificate: parsed.certificate,
            key: parsed.key,
            path: path.to_owned(),
        })
    }
}

/// Where an operator's own files are.
pub(crate) fn config_dir() -> Result<PathBuf, Failure> {
    let config = match (std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME")) {
        (Some(config), _) if !config.is_empty() => PathBuf::from(config),
        (_, Some(home)) => PathBuf::from(home).join(".config"),
        _ => {
            return Err(Failure::new("neither HOME nor XDG_CONFIG_HOME is set", "name the file with --operator FILE"));
        }
    };
    Ok(config.join("isthmus"))
}

/// The modes are those of the opened file, so that a swap between looking and reading gains nothing.
fn read_private(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            format!("{}: {e}", path.display()),
            "copy operator.yaml from the control plane's state directory to ~/.config/isthmus/operator.yaml (mode \
             0600), or name it with --operator FILE or ISTHMUS_OPERATOR",
        )
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            format!("{}: mode {mode:04o} lets others on this machine use your key", path.display()),
            format!("chmod 600 {}", path.display()),
        ));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
#[path = "operator_test.rs"]
mod operator_test;
