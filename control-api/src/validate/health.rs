//! Reader and checks of `healthCheck:` in a TrafficPolicy: how endpoints without sidecar are probed by the proxies that use
//! them. Refused: services whose endpoints have sidecars, which say themselves how they are, and names outside, which have
//! no endpoints.

use super::ResourceRef;
use super::cross::Findings;
use super::field::Field;
use super::resource::*;
use super::set::Set;
use isthmus_proto::model::{Asking, LONGEST_INTERVAL, MOST_IN_A_ROW, SHORTEST_INTERVAL};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);
const FAILURES: u32 = 3;
const SUCCESSES: u32 = 1;

/// `{ tcp: true }`, `{ http: { path: /ready } }` or `{ grpc: { service: a.v1.B } }`, and how often.
pub(super) fn read(field: &Field) -> Option<HealthCheck> {
    field.only(&["tcp", "http", "grpc", "interval", "timeout", "failures", "successes"], &[]);
    let asked: Vec<&str> = ["tcp", "http", "grpc"].into_iter().filter(|name| field.get(name).is_some()).collect();
    let [what] = asked.as_slice() else {
        field.fault("is of one kind: write `tcp: true`, `http: { path: /ready }` or `grpc: {}`");
        return None;
    };
    let how = how(what, &field.get(what)?);
    let interval = field.get("interval").map_or(Some(INTERVAL), |f| {
        let interval = f.duration()?;
        if !(SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
            f.fault("has to be between 1s and 1h: every proxy that uses the endpoint asks");
            return None;
        }
        Some(interval)
    })?;
    let timeout = field.get("timeout").map_or(Some(TIMEOUT.min(interval)), |f| {
        let timeout = f.duration()?;
        if timeout < Duration::from_millis(1) || timeout > interval {
            f.fault("has to be longer than nothing, and no longer than the interval");
            return None;
        }
        Some(timeout)
    })?;
    let count = |name, usual| field.get(name).map_or(Some(usual), |f| in_a_row(&f));
    let (failures, successes) = (count("failures", FAILURES)?, count("successes", SUCCESSES)?);
    Some(HealthCheck { how: how?, interval, timeout, failures, successes })
}

fn how(what: &str, field: &Field) -> Option<Asking> {
    match what {
        "tcp" => {
            if !field.flag()? {
                field.fault("`tcp: false` asks for nothing; leave healthCheck out");
                return None;
            }
            Some(Asking::Tcp)
        }
        "http" => {
            field.only(&["path"], &[]);
            let path = field.need("path")?;
            let text = path.word()?;
            if !text.starts_with('/') || !text.bytes().all(|b| b.is_ascii_graphic()) {
                path.fault(format!("`{text}` does not begin with /, or holds blanks or other than ASCII"));
                return None;
            }
            Some(Asking::Http(text.to_string()))
        }
        _ => {
            field.only(&["service"], &[]);
            let Some(service) = field.get("service") else { return Some(Asking::Grpc(String::new())) };
            let text = service.word()?;
            if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) {
                service.fault(format!("`{text}` is no name of a gRPC service, as `payments.v1.Payments`"));
                return None;
            }
            Some(Asking::Grpc(text.to_string()))
        }
    }
}

fn in_a_row(field: &Field) -> Option<u32> {
    let number = field.number()?;
    if number.fract() != 0.0 || !(1.0..=f64::from(MOST_IN_A_ROW)).contains(&number) {
        field.fault(format!("has to be a whole number between 1 and {MOST_IN_A_ROW}"));
        return None;
    }
    Some(number as u32)
}

/// It names services, all of which have endpoints outside.
pub(super) fn check(found: &mut Findings, resource: &Resource, policy: &TrafficPolicy, set: &Set) {
    let Some(health) = &policy.health_check else { return };
    if policy.services.is_empty() {
        found.fault(resource, "spec.healthCheck", "holds for single services; name them under `services`".to_string());
    }
    for (i, name) in policy.services.iter().enumerate() {
        let key = ResourceRef::new("Service", &resource.key.namespace, name);
        let Some(Spec::Service(service)) = set.get(&key).map(|found| &found.spec) else { continue };
        let reason = if !service.selector.is_empty() {
            "selects workloads: their own sidecars say how they are (`readiness` of their proxy.yaml)"
        } else if service.external_name.is_some() {
            "is a name outside, and has no endpoints that could be left out"
        } else {
            continue;
        };
        found.fault(resource, format!("spec.services[{i}]"), reason.to_string());
    }
    if policy.tls.is_some() && health.how != Asking::Tcp {
        let reason = "asks in plain, where TLS is begun for everything else; ask by `tcp: true`".to_string();
        found.fault(resource, "spec.healthCheck", reason);
    }
}
