//! Signing in at an OIDC provider by the device flow (RFC 8628): the control plane asks the provider for a code, the
//! operator types it into a browser anywhere, and the id token that follows comes to the control plane alone.
//!
//! So the operator's machine needs nothing but its connection here, and no token of the provider is ever on it. The nonce
//! is the hash of the operator's new key: a provider that repeats it binds the sign-in to that key. What the groups may
//! do, OperatorRoles say.

mod https;
pub mod jwt;

use crate::config::Oidc;
use jwt::{Claims, Expected, Fault, Keys};
use rustls::ClientConfig;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Where a provider's endpoints are, and its keys, are asked again after so long.
const KNOWN_FOR: Duration = Duration::from_secs(3600);
/// A token of a key that is not known asks for the keys again, but not more often than this.
const KEYS_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// A code is typed within minutes, whatever a provider allows.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(15 * 60);
const SLOWEST_POLL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Deserialize)]
struct Endpoints {
    issuer: String,
    device_authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

/// What the operator is told.
#[derive(Clone, Debug, Deserialize)]
pub struct Code {
    device_code: String,
    pub user_code: String,
    #[serde(alias = "verification_url")]
    pub verification_uri: String,
    #[serde(default)]
    pub verification_uri_complete: String,
    expires_in: u64,
    #[serde(default = "usual_interval")]
    interval: u64,
}

fn usual_interval() -> u64 {
    5
}

#[derive(Deserialize)]
struct Answer {
    id_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

struct Cached<T> {
    at: Instant,
    value: T,
}

/// The provider of `control.yaml`.
pub struct Provider {
    config: Oidc,
    tls: Arc<ClientConfig>,
    endpoints: Mutex<Option<Cached<Endpoints>>>,
    keys: Mutex<Option<Cached<Keys>>>,
}

impl Provider {
    pub fn new(config: &Oidc) -> Result<Self, String> {
        if !config.issuer.starts_with("https://") {
            return Err(format!("operators.oidc.issuer: `{}` is not https://", config.issuer));
        }
        let tls = https::roots(config.ca_file.as_deref()).map_err(|error| format!("operators.oidc: {error}"))?;
        Ok(Provider { config: config.clone(), tls, endpoints: Mutex::default(), keys: Mutex::default() })
    }

    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// A code for the operator to type. The nonce comes back in the token, where the provider repeats it.
    pub async fn begin(&self, nonce: &str) -> Result<Code, String> {
        let endpoints = self.endpoints().await?;
        let scope = self.config.scopes.join(" ");
        let secret = self.secret().await?;
        let mut fields =
            vec![("client_id", self.config.client_id.as_str()), ("scope", scope.as_str()), ("nonce", nonce)];
        fields.extend(secret.as_deref().map(|secret| ("client_secret", secret.as_str())));
        let (status, body) =
            https::ask(&endpoints.device_authorization_endpoint, Some(https::form(&fields)), &self.tls).await?;
        if status != 200 {
            return Err(format!("the provider gives no code: {}", said(&body, status)));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the provider's code cannot be read: {error}"))
    }

    /// Waits until the code was typed. Ends with the code's time, and with the caller's patience.
    pub async fn finish(&self, code: &Code, nonce: &str, now_s: impl Fn() -> i64) -> Result<Claims, String> {
        let endpoints = self.endpoints().await?;
        let within = Duration::from_secs(code.expires_in).min(LONGEST_SIGN_IN);
        let until = Instant::now() + within;
        let mut interval = Duration::from_secs(code.interval.max(1));
        loop {
            tokio::time::sleep(interval.min(SLOWEST_POLL)).await;
            if Instant::now() >= until {
                return Err("the code was not used in time; sign in again".to_string());
            }
            let secret = self.secret().await?;
            let mut fields = vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
                ("client_id", self.config.client_id.as_str()),
                ("device_code", code.device_code.as_str()),
            ];
            fields.extend(secret.as_deref().map(|secret| ("client_secret", secret.as_str())));
            // A provider that is busy for a moment is asked again, as long as the code lives.
            let Ok((status, body)) = https::ask(&endpoints.token_endpoint, Some(https::form(&fields)), &self.tls).await
            else {
                continue;
            };
            let Ok(answer) = serde_json::from_slice::<Answer>(&body) else { continue };
            match (answer.id_token, answer.error.as_deref()) {
                (Some(token), None) => return self.check(&token, nonce, now_s()).await,
                (_, Some("authorization_pending")) => {}
                (_, Some("slow_down")) => interval += Duration::from_secs(5),
                (_, Some(_)) => return Err(format!("the provider refuses: {}", said(&body, status))),
                (None, None) => {
                    return Err("the provider answers without an id token; is `openid` a scope?".to_string());
                }
            }
        }
    }

    /// A key that is not known may be a new one: the keys are asked for once more.
    async fn check(&self, token: &str, nonce: &str, now_s: i64) -> Result<Claims, String> {
        let refused = |fault: Fault| format!("the provider's token is refused: {fault}");
        let expected = Expected {
            issuer: &self.config.issuer,
            audience: &self.config.client_id,
            nonce,
            nonce_required: self.config.require_nonce,
            groups_claim: &self.config.groups_claim,
            now_s,
        };
        match jwt::verify(token, &self.keys(KNOWN_FOR).await?, expected) {
            Err(Fault::Key) => jwt::verify(token, &self.keys(KEYS_AT_MOST_EVERY).await?, expected).map_err(refused),
            other => other.map_err(refused),
        }
    }

    async fn endpoints(&self) -> Result<Endpoints, String> {
        let mut held = self.endpoints.lock().await;
        if let Some(known) = held.as_ref().filter(|known| known.at.elapsed() < KNOWN_FOR) {
            return Ok(known.value.clone());
        }
        let url = format!("{}/.well-known/openid-configuration", self.config.issuer.trim_end_matches('/'));
        let (status, body) = https::ask(&url, None, &self.tls).await?;
        if status != 200 {
            return Err(format!("{url}: {}", said(&body, status)));
        }
        let found: Endpoints = serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))?;
        // OpenID Connect Discovery §4.3: or somebody else's tokens would be taken for this provider's.
        if found.issuer != self.config.issuer {
            return Err(format!("{url}: it is the configuration of `{}`", found.issuer));
        }
        *held = Some(Cached { at: Instant::now(), value: found.clone() });
        Ok(found)
    }

    async fn keys(&self, not_older: Duration) -> Result<Keys, String> {
        let url = self.endpoints().await?.jwks_uri;
        let mut held = self.keys.lock().await;
        if let Some(known) = held.as_ref().filter(|known| known.at.elapsed() < not_older) {
            return Ok(known.value.clone());
        }
        let (status, body) = https::ask(&url, None, &self.tls).await?;
        if status != 200 {
            return Err(format!("{url}: {}", said(&body, status)));
        }
        let keys = Keys::read(&body).map_err(|error| format!("{url}: {error}"))?;
        *held = Some(Cached { at: Instant::now(), value: keys.clone() });
        Ok(keys)
    }

    /// Read each time, because it is rotated under us.
    async fn secret(&self) -> Result<Option<zeroize::Zeroizing<String>>, String> {
        let Some(path) = &self.config.client_secret_file else { return Ok(None) };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
        let text = zeroize::Zeroizing::new(text);
        Ok(Some(zeroize::Zeroizing::new(text.trim().to_string())))
    }
}

/// As the operator's name: readable first, and unique by who the provider says it is.
pub fn operator_name(issuer: &str, claims: &Claims) -> String {
    use sha2::{Digest, Sha256};
    let digest: [u8; 32] = Sha256::digest(format!("{issuer}\n{}", claims.subject)).into();
    let unique = &crate::audit::chain::hex(&digest)[..16];
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = claims.display_name.chars().map(plain).take(40).collect();
    let label = label.trim_matches('-');
    format!("{}{}.{unique}", super::session::OIDC, if label.is_empty() { "somebody" } else { label })
}

/// The provider's own words, a few of them.
fn said(body: &[u8], status: u16) -> String {
    let answer = serde_json::from_slice::<Answer>(body).ok();
    let words = answer.and_then(|answer| answer.error_description.or(answer.error));
    words.map_or_else(
        || format!("it answers {status}"),
        |words| words.chars().filter(|c| !c.is_control()).take(200).collect(),
    )
}
