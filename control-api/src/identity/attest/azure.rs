//! An Azure VM, by the attested document of its instance metadata service: signed by Microsoft, verified offline against
//! the CAs that `control.yaml` names, made for this very request (nonce), and bound to one Workload by subscription and VM.

use super::{Attested, Once};
use crate::config::AzureVms;
use aws_lc_rs::hmac;
use isthmus_certs::{PublicKeyInfo, pem, signed_document};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// How long a nonce is good at least; at most twice that.
const NONCE_LASTS_MS: i64 = 120_000;
/// What the metadata service takes: ten digits.
const NONCES: u64 = 10_000_000_000;
/// Its clock is Azure's; ours may be off by what certificates bear.
const SKEW_MS: i64 = 5 * 60 * 1000;
/// `11/28/26 00:16:17 -0000`.
const TIME_FORMAT: &str = "%m/%d/%y %H:%M:%S %z";

/// The machines that may come in, and how their documents are checked.
pub struct Azure {
    cas: Vec<CertificateDer<'static>>,
    signers: Vec<String>,
    /// `<subscription>/<VM id>`, lower case → `<namespace>/<name>`.
    workloads: BTreeMap<String, String>,
}

/// Makes nonces and knows them again, and keeps none: a nonce is a keyed hash of the request's key and the time. So it is
/// worth nothing for another key, and a document that was overheard is worth nothing at all.
pub struct Nonces(hmac::Key);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    nonce: String,
    vm_id: String,
    subscription_id: String,
    time_stamp: TimeStamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TimeStamp {
    created_on: String,
    expires_on: String,
}

impl Nonces {
    pub fn new() -> Result<Self, String> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| "the system gives no random bytes".to_string())?;
        Ok(Nonces(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// For a request for this key, made now.
    pub fn make(&self, key: &PublicKeyInfo, now_ms: i64) -> String {
        self.at(key, now_ms.div_euclid(NONCE_LASTS_MS))
    }

    fn at(&self, key: &PublicKeyInfo, period: i64) -> String {
        let tag = hmac::sign(&self.0, &[&period.to_be_bytes()[..], key.key().as_point()].concat());
        let number = tag.as_ref().iter().take(8).fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        format!("{:010}", number % NONCES)
    }

    fn knows(&self, nonce: &str, key: &PublicKeyInfo, now_ms: i64) -> bool {
        let period = now_ms.div_euclid(NONCE_LASTS_MS);
        [period, period - 1].iter().any(|period| self.at(key, *period) == nonce)
    }
}

impl Azure {
    pub fn read(configured: &AzureVms) -> Result<Self, String> {
        let path = configured.cas.display();
        let text = std::fs::read(&configured.cas).map_err(|error| format!("{path}: {error}"))?;
        let cas = pem::parse(&text).map_err(|error| format!("{path}: {error}"))?.certificates;
        if cas.is_empty() {
            return Err(format!("{path}: it holds no certificate"));
        }
        for vm in configured.workloads.keys() {
            if vm.split('/').filter(|part| !part.is_empty()).count() != 2 {
                return Err(format!("attestation.azure.workloads: `{vm}` is not `<subscription id>/<VM id>`"));
            }
        }
        let lower = |(vm, workload): (&String, &String)| (vm.to_ascii_lowercase(), workload.clone());
        let workloads = configured.workloads.iter().map(lower).collect();
        let signers = configured.signers.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Azure { cas, signers, workloads })
    }

    pub(super) fn attest(
        &self,
        document: &[u8],
        nonces: &Nonces,
        key: &PublicKeyInfo,
        now_ms: i64,
    ) -> Result<Attested, Status> {
        let refused = |why: String| Status::unauthenticated(format!("attested document: {why}"));
        let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now_ms).unwrap_or(0)));
        let signed = signed_document::verify(document, &self.cas, now).map_err(|error| refused(format!("{error}")))?;
        if !signed.signer.iter().any(|name| self.signs(name)) {
            let names = signed.signer.join(", ");
            return Err(refused(format!("it is signed by {names}, which is none of attestation.azure.signers")));
        }
        let content = Content::read(&signed.content).map_err(refused)?;
        if !nonces.knows(&content.nonce, key, now_ms) {
            return Err(refused("it was not made for this request: its nonce is another's, or too old".to_string()));
        }
        content.check_times(now_ms).map_err(refused)?;
        let vm = format!("{}/{}", content.subscription_id, content.vm_id).to_ascii_lowercase();
        let workload = self.workloads.get(&vm).ok_or_else(|| {
            let vm = vm.escape_debug();
            Status::permission_denied(format!("Azure VM {vm} is not among attestation.azure.workloads"))
        })?;
        Ok(Attested {
            workload: workload.clone(),
            proof: format!("azure {vm}"),
            allowed_unix_ms: 0,
            once: Once::FirstKey,
        })
    }

    /// A configured name, or a region's below it (`eastus.metadata.azure.com`).
    fn signs(&self, name: &str) -> bool {
        let below = |signer: &String| name.strip_suffix(signer.as_str()).is_some_and(|rest| rest.ends_with('.'));
        self.signers.iter().any(|signer| signer == name || below(signer))
    }
}

impl Content {
    fn read(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|error| format!("what was signed is not as Azure writes it: {error}"))
    }

    fn check_times(&self, now_ms: i64) -> Result<(), String> {
        let (created, expires) = (time_ms(&self.time_stamp.created_on)?, time_ms(&self.time_stamp.expires_on)?);
        if created > now_ms.saturating_add(SKEW_MS) {
            return Err(format!("it was made on {}, which is later than now", self.time_stamp.created_on));
        }
        if expires.saturating_add(SKEW_MS) < now_ms {
            return Err(format!("it ended on {}", self.time_stamp.expires_on));
        }
        Ok(())
    }
}

fn time_ms(text: &str) -> Result<i64, String> {
    let time = jiff::fmt::strtime::parse(TIME_FORMAT, text).and_then(|parsed| parsed.to_timestamp());
    time.map(|time| time.as_millisecond()).map_err(|_| format!("`{}` is no time", text.escape_debug()))
}

#[cfg(test)]
#[path = "azure_test.rs"]
mod azure_test;
