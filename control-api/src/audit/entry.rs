//! What one line says: who, what, by which proof, with which serial.

use super::difference::Changed;
use serde::{Deserialize, Serialize};

/// What happened. Kebab-case in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A first certificate, for a proof.
    Enrolled,
    /// A further certificate, for the one before it.
    Renewed,
    /// To the control plane itself, or to the operator of the state directory.
    #[default]
    Issued,
    Refused,
    /// Refusals that came too fast to be listed; `count` says how many.
    RefusedMore,
    /// A certificate of ours that a proxy shows and this log does not hold: an older state was put back from a backup.
    Found,
    /// What was revoked before an older state was put back, as a proxy showed it, signed by this control plane.
    Reminded,
    TokenCreated,
    /// Written before the certificate is: with it a token stays spent even if an older store is restored.
    TokenSpent,
    TokenRevoked,
    Revoked,
    /// A lost key: the machine of this proof may enrol once more.
    Released,
    /// Break-glass: refusals at a service are not carried out for a while.
    Bypassed,
    /// A bypass is over: its time has come, or somebody ended it before.
    BypassEnded,
    /// Resources were created, updated or deleted, at `revision`. Written before that is done.
    Changed,
    /// From now on refusals are carried out, where they were only recorded.
    Enforced,
    /// The way back: refusals are recorded, and not carried out.
    Observed,
    /// A change that awaited confirmation stays.
    Confirmed,
    /// It was taken back: by an operator, or since nobody confirmed it in time.
    RolledBack,
    /// A step of the CA: a root made, promoted, retired, given up, imported.
    Authority,
    /// The store could not take what the line before said; nothing was changed.
    ChangeFailed,
    /// An operator's short-lived certificate.
    SignedIn,
    /// A robot's token, or an invitation.
    AccessCreated,
    AccessRevoked,
    /// A change that takes two operators waits for the second one.
    ApprovalAsked,
    /// He has said yes. Written before it is done.
    Approved,
    /// He, or its author, has said no.
    ApprovalRejected,
}

/// One line without its place in the chain. Absent is written as nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    pub what: What,
    /// The SPIFFE id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub who: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// `join-token 7f3a9c21…`, `certificate <serial>`, `kubernetes <namespace>/<pod>`, … Never a secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proof: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Seconds since the Unix epoch.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_after_unix_s: u64,
    /// SHA-256 of the root that the chain leads to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root: String,
    /// SHA-256 of the issuing CA's certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// SHA-256 of the public key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The peer's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub count: u64,
    /// Of the store.
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// What was changed: several lines of one revision, where it is much.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub seq: u64,
    pub at: jiff_text::At,
    #[serde(flatten)]
    pub event: Event,
}

/// Times as people read them, RFC 3339 in UTC with milliseconds.
pub mod jiff_text {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Milliseconds since the Unix epoch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct At(pub i64);

    impl Serialize for At {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let at = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            to.collect_str(&format_args!("{at:.3}"))
        }
    }

    impl<'de> Deserialize<'de> for At {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            text.parse::<jiff::Timestamp>().map(|at| At(at.as_millisecond())).map_err(D::Error::custom)
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
