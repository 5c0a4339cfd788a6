//! `control.yaml`: one struct, defaults beside docs, every fault with its place.

use crate::approval::SecondApprover;
use crate::history::Keep;
use isthmus_certs::TrustDomain;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `control.yaml` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// As in `spiffe://<trust domain>/…`. Never changes: every identity carries it.
    pub trust_domain: String,
    /// CA, store and the first operator's credentials. To be backed up, and to be kept secret.
    pub state_dir: PathBuf,
    /// `host:port` at which proxies reach `listen.proxies`; join tokens carry it.
    pub advertise: String,
    #[serde(default)]
    pub listen: Listen,
    /// A directory of YAML files to keep applied. Absent: resources come from the admin API alone.
    #[serde(default)]
    pub resources: Option<PathBuf>,
    /// Where resources, tokens and revocations are kept. Absent: in `store.redb` of the state directory.
    #[serde(default)]
    pub store: StoreConfig,
    /// Where the CA's keys are.
    #[serde(default)]
    pub authority: Authority,
    /// By what workloads may enrol, beside join tokens.
    #[serde(default)]
    pub attestation: Attestation,
    /// When the endpoints of a workload whose proxy is gone are withdrawn.
    #[serde(default)]
    pub leases: Leases,
    /// How much of what was changed stays known.
    #[serde(default)]
    pub history: History,
    /// How operators and robots sign in.
    #[serde(default)]
    pub operators: SignIn,
    #[serde(default)]
    pub log: Log,
}

/// `history: { revisions: 1000, age: 2160h }`. The oldest goes first.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct History {
    /// So many of the latest are kept, and at each look a few more.
    pub revisions: usize,
    /// And none that is older.
    #[serde(deserialize_with = "span")]
    pub age: Duration,
}

impl Default for History {
    fn default() -> Self {
        let Keep { revisions, age } = Keep::default();
        History { revisions, age }
    }
}

/// `operators: { certificateLifetime: 8h }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SignIn {
    /// Of what `isthmus login` gives a person: a working day. At most 24h.
    #[serde(deserialize_with = "span")]
    pub certificate_lifetime: Duration,
    /// Where persons sign in. Absent: by invitations alone.
    pub oidc: Option<Oidc>,
    /// What takes two operators. Absent: nothing does.
    pub second_approver: SecondApprover,
}

/// An OpenID Connect provider that does the device flow, as Entra ID.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Oidc {
    /// As its tokens name it: `https://login.microsoftonline.com/<tenant id>/v2.0`.
    pub issuer: String,
    pub client_id: String,
    /// Of a confidential client, mode 0600.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    #[serde(default = "oidc_scopes")]
    pub scopes: Vec<String>,
    #[serde(default = "oidc_groups")]
    pub groups_claim: String,
    /// The CAs of the provider, PEM. Absent: those of this machine.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Whether a token must repeat our nonce. Entra ID does not in a device's sign-in; where a provider does, say so.
    #[serde(default)]
    pub require_nonce: bool,
}

fn oidc_scopes() -> Vec<String> {
    vec!["openid".to_string(), "profile".to_string()]
}

fn oidc_groups() -> String {
    "groups".to_string()
}

impl Default for SignIn {
    fn default() -> Self {
        SignIn { certificate_lifetime: Duration::from_secs(8 * 3600), oidc: None, second_approver: Default::default() }
    }
}

/// `store: { etcd: { endpoints: […] }, encryption: { passphraseFile: … } }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoreConfig {
    /// A cluster, for several control planes.
    pub etcd: Option<EtcdConfig>,
    /// What wraps the key that values are encrypted with. Absent: they are in plain.
    pub encryption: Option<StoreKeys>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// Before every key.
    #[serde(default = "etcd_prefix")]
    pub prefix: String,
    /// The cluster's CA, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our client certificate and its key, PEM.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// This control plane among the others; must stay the same. Absent: the host's name.
    pub replica: Option<String>,
}

fn etcd_prefix() -> String {
    "/isthmus/".to_string()
}

/// `encryption: { passphraseFile: … }` or `encryption: { pkcs11: { module: …, token: …, pinFile: … } }`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StoreKeys {
    PassphraseFile(PathBuf),
    Pkcs11(TokenKeys),
}

/// `leases: { grace: 10s, afterStart: 60s }`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Leases {
    /// For how long a proxy's stream may be gone.
    #[serde(deserialize_with = "span")]
    pub grace: Duration,
    /// For how long after the control plane's own start nobody is taken for dead.
    #[serde(deserialize_with = "span")]
    pub after_start: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        // A cut is noticed after up to 25 s (push's pings); a process that ends, at once.
        Leases { grace: Duration::from_secs(10), after_start: Duration::from_secs(60) }
    }
}

/// `500ms`, `10s`, `2m` or `1h`.
pub(crate) fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || D::Error::custom(format!("`{text}` is not a time; write it as 500ms, 10s, 2m or 1h"));
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Attestation {
    /// Machine certificates of a company's own CAs.
    pub certificates: Vec<CompanyCa>,
    /// Service-account tokens of pods.
    pub kubernetes: Vec<Cluster>,
    /// Attested documents of Azure VMs.
    pub azure: Option<AzureVms>,
}

/// A Kubernetes cluster whose pods may enrol.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// As its proxies name it when they enrol.
    pub name: String,
    /// `https://host:port`.
    pub api_server: String,
    /// The CAs of the API server, PEM.
    pub ca_file: PathBuf,
    /// With which token we ask: its account needs the ClusterRole system:auth-delegator.
    pub token_file: PathBuf,
    /// What a pod's token must be made for.
    #[serde(default = "audience")]
    pub audience: String,
    /// For whom the cluster may speak. Empty: for every namespace.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Whether a token must be bound to its pod's node too. Kubernetes does that from 1.32 on.
    #[serde(default = "yes")]
    pub node_bound: bool,
}

/// The Azure VMs that may enrol.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureVms {
    /// The CAs that attested documents lead to, PEM: roots, and issuing CAs that documents do not bring along.
    pub cas: PathBuf,
    /// Whose certificates sign them; names below these as well.
    #[serde(default = "azure_signers")]
    pub signers: Vec<String>,
    /// `<subscription id>/<VM id>` → `<namespace>/<name>` of its Workload. Nobody else comes in.
    pub workloads: BTreeMap<String, String>,
}

fn audience() -> String {
    "isthmus".to_string()
}

fn yes() -> bool {
    true
}

fn azure_signers() -> Vec<String> {
    vec!["metadata.azure.com".to_string()]
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompanyCa {
    /// As machines name it when they enrol.
    pub name: String,
    /// Its roots, PEM.
    pub roots: PathBuf,
    /// DNS name in the machine's certificate → `<namespace>/<name>` of its Workload. Nobody else comes in.
    pub workloads: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authority {
    pub keys: Keys,
    /// Where older keys still are, while a rotation moves from there to `keys`.
    pub former_keys: Vec<Keys>,
}

/// `keys: { file: { passphraseFile: … } }` or `keys: { pkcs11: { module: …, token: …, pinFile: … } }`. A change takes
/// effect with the next root: `isthmus ca rotate start`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Keys {
    File(FileKeys),
    Pkcs11(TokenKeys),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FileKeys {
    /// A passphrase or a key file, mode 0600, that seals the CA's keys at rest. Absent: their mode alone protects them.
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenKeys {
    /// The vendor's library, as `/usr/lib/softhsm/libsofthsm2.so`.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// A file with the user's PIN, mode 0600.
    pub pin_file: PathBuf,
}

impl Default for Keys {
    fn default() -> Self {
        Keys::File(FileKeys::default())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC for proxies: enrolment, renewal, discovery.
    pub proxies: SocketAddr,
    /// gRPC for operators, with an operator's certificate.
    pub operators: SocketAddr,
    /// `/metrics` and `/ready`, plain HTTP, read-only, without secrets.
    pub metrics: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        Listen { proxies: any(15012), operators: any(15013), metrics: any(15014) }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as `info,isthmus_control::push=debug`.
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".to_string(), format: LogFormat::Text }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// A configuration that cannot be used. The operator has to change the file.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct ConfigError {
    pub file: String,
    pub reason: String,
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let fail = |reason: String| ConfigError { file: file.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Config = serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
        config.check()?;
        Ok(config)
    }

    /// What proxies dial: what is advertised, unless the port was left to the kernel (tests).
    pub fn advertised_port(&self, bound: SocketAddr) -> u16 {
        let advertised = self.advertise.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        match (self.listen.proxies.port(), advertised) {
            (0, _) | (_, None) => bound.port(),
            (_, Some(port)) => port,
        }
    }

    /// What is advertised, at another port.
    pub fn at_port(&self, port: u16) -> String {
        let host = self.advertise.rsplit_once(':').map_or(self.advertise.as_str(), |(host, _)| host);
        format!("{host}:{port}")
    }

    fn check(&self) -> Result<(), String> {
        TrustDomain::parse(&self.trust_domain).map_err(|error| format!("trustDomain: {error}"))?;
        let lifetime = self.operators.certificate_lifetime;
        if !(Duration::from_secs(300)..=Duration::from_secs(86_400)).contains(&lifetime) {
            return Err("operators.certificateLifetime: is not between 5m and 24h".to_string());
        }
        self.operators.second_approver.check()?;
        let port = self.advertise.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(1..)) => Ok(()),
            _ => Err(format!("advertise: `{}` is not host:port, as `10.10.0.2:15012`", self.advertise)),
        }
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod config_test;
