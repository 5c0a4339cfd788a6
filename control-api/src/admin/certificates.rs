//! Every certificate in use, and what is wrong with it. Pure but for what it is handed.

use super::Operators;
use crate::authority::rotation::roots;
use crate::identity::register::Holding;
use crate::identity::restore;
use crate::operators::Caller;
use crate::push::registry::Proxy;
use isthmus_certs::{Clock, skew_in_words, span_in_words};
use isthmus_proto::admin::v1 as wire;
use std::collections::BTreeMap;

/// Certificates bear 5 minutes.
const SKEW_MS: u64 = 5 * 60 * 1000;

pub(super) fn list(this: &Operators, caller: &Caller) -> wire::ListCertificatesResponse {
    let now_ms = this.ledger.clock().now_ms();
    let proxies = this.registry.everywhere(now_ms).into_iter().map(|(workload, (_, proxy))| (workload, proxy));
    let proxies: BTreeMap<_, _> = proxies.collect();
    let revoked = this.ledger.trust().revocations.clone();
    let is_revoked = |holding: &Holding| {
        let serial = isthmus_certs::Serial::parse(&holding.serial);
        let id = isthmus_certs::SpiffeId::parse(&holding.who).ok();
        let until = id.and_then(|id| revoked.identities.get(&id).copied());
        let issued_s = u64::try_from(holding.issued_unix_ms / 1000).unwrap_or(0);
        serial.is_some_and(|serial| revoked.serials.contains(&serial)) || until.is_some_and(|until| issued_s <= until)
    };
    let active = crate::authority::rotation::fingerprint(&this.issuer.authorities().active());
    let mut certificates: Vec<wire::Certificate> = Vec::new();
    // Whoever does not see the whole mesh sees the certificates of the workloads that he sees.
    let seen = |holding: &Holding| {
        caller.rights.sees_all() || (!holding.workload.is_empty() && caller.sees_workload(&holding.workload))
    };
    for holding in this.issuer.register().live(now_ms).into_iter().filter(seen) {
        let proxy = proxies.get(&holding.workload);
        let mut troubles = troubles(&holding, proxy, now_ms);
        if is_revoked(&holding) {
            troubles.insert(0, "revoked".to_string());
        }
        if holding.root != active {
            troubles.push("of the old root".to_string());
        }
        certificates.push(certificate(holding, proxy, troubles));
    }
    // Trouble first, then what ends first.
    certificates.sort_by_key(|c| (std::cmp::Reverse(c.troubles.len().min(1)), c.not_after_unix_ms));
    let roots = roots(this.issuer.authorities());
    let crypto_profile = this.ledger.world().mesh.crypto_profile.in_words();
    wire::ListCertificatesResponse { certificates, roots, server_time_unix_ms: now_ms, crypto_profile }
}

/// What an operator should look at, the worst first.
pub(super) fn troubles(holding: &Holding, proxy: Option<&Proxy>, now_ms: i64) -> Vec<String> {
    let mut troubles = Vec::new();
    let ends = ends_ms(holding);
    let (life, left) = (ends - holding.issued_unix_ms, ends - now_ms);
    // Renewals begin at half of the life, give or take a tenth; a quarter left means that several were tried in vain.
    if renews(holding) && left < life / 4 {
        troubles.push(format!("ends in {} and was not renewed", span_in_words(left.max(0).unsigned_abs())));
    }
    if holding.proof == restore::NOT_ON_RECORD {
        troubles.push("not on record: this control plane's state was put back from a backup".to_string());
    }
    let Some(proxy) = proxy else { return troubles };
    if let Some(copy) = proxy.copy.as_ref().filter(|copy| copy.is_trouble(now_ms)) {
        troubles.insert(0, copy.in_words(&proxy.arrival.machine, now_ms));
    }
    if proxy.skew_ms.unsigned_abs() > SKEW_MS {
        troubles.push(skew_in_words(proxy.skew_ms));
    }
    if !proxy.connected {
        troubles
            .push(format!("offline for {}", span_in_words((now_ms - proxy.last_seen_unix_ms).max(0).unsigned_abs())));
    }
    troubles
}

fn certificate(holding: Holding, proxy: Option<&Proxy>, troubles: Vec<String>) -> wire::Certificate {
    let not_after_unix_ms = ends_ms(&holding);
    let renewal = holding.issued_unix_ms + (not_after_unix_ms - holding.issued_unix_ms) / 2;
    wire::Certificate {
        renewal_unix_ms: if renews(&holding) { renewal } else { 0 },
        spiffe_id: holding.who,
        workload: holding.workload,
        serial: holding.serial,
        root: holding.root,
        issuer: holding.issuer,
        issued_unix_ms: holding.issued_unix_ms,
        not_after_unix_ms,
        proof: holding.proof,
        connected: proxy.is_some_and(|proxy| proxy.connected),
        last_seen_unix_ms: proxy.map_or(0, |proxy| proxy.last_seen_unix_ms),
        clock_skew_ms: proxy.map_or(0, |proxy| proxy.skew_ms),
        troubles,
    }
}

/// Operators' certificates are made anew with their file, and by nobody else.
fn renews(holding: &Holding) -> bool {
    !holding.who.contains("/ns/isthmus-system/sa/operator-")
}

fn ends_ms(holding: &Holding) -> i64 {
    i64::try_from(holding.not_after_unix_s).unwrap_or(i64::MAX / 1000).saturating_mul(1000)
}

#[cfg(test)]
#[path = "certificates_test.rs"]
mod certificates_test;
