//! Reader and checks of `tls:` in a TrafficPolicy: TLS that the callers' proxies begin towards a service outside.

use super::ResourceRef;
use super::cross::Findings;
use super::field::Field;
use super::names::is_subdomain;
use super::resource::*;
use super::set::Set;

pub(super) fn read(field: &Field) -> TlsOrigination {
    field.only(&["serverName", "ca", "clientCertificate", "clientKey"], &[]);
    let server_name = field.get("serverName").and_then(|f| {
        let name = f.word()?.trim_end_matches('.').to_ascii_lowercase();
        if is_subdomain(&name) && name.parse::<std::net::IpAddr>().is_err() {
            return Some(name);
        }
        f.fault(format!("`{name}` is not a DNS name"));
        None
    });
    let path = |name: &str| {
        let f = field.get(name)?;
        let text = f.word()?;
        if !text.starts_with('/') {
            f.fault("is a file on the callers' hosts: write an absolute path");
        }
        Some(text.to_string())
    };
    let client = match (path("clientCertificate"), path("clientKey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            field.fault("has one of `clientCertificate` and `clientKey`; write both");
            None
        }
    };
    TlsOrigination { server_name, roots_der: field.get("ca").map(|f| roots(&f)).unwrap_or_default(), client }
}

fn roots(field: &Field) -> Vec<Vec<u8>> {
    let Some(text) = field.word() else { return Vec::new() };
    match isthmus_certs::pem::parse(text.as_bytes()) {
        Ok(found) if !found.certificates.is_empty() => {
            found.certificates.iter().map(|certificate| certificate.as_ref().to_vec()).collect()
        }
        Ok(_) => {
            field.fault("holds no certificate; write PEM, or leave it out to mean the roots of the callers' hosts");
            Vec::new()
        }
        Err(error) => {
            field.fault(format!("is not PEM: {error}"));
            Vec::new()
        }
    }
}

/// It names services, all of which are outside, and of each it is known by which name.
pub(super) fn check(found: &mut Findings, resource: &Resource, policy: &TrafficPolicy, set: &Set) {
    let Some(tls) = &policy.tls else { return };
    if policy.services.is_empty() {
        found.fault(resource, "spec.tls", "holds for single services; name them under `services`".to_string());
    }
    for (i, name) in policy.services.iter().enumerate() {
        let key = ResourceRef::new("Service", &resource.key.namespace, name);
        let Some(Spec::Service(service)) = set.get(&key).map(|found| &found.spec) else { continue };
        if !service.selector.is_empty() {
            let reason = "selects workloads, which have sidecars; TLS is begun towards services outside".to_string();
            found.fault(resource, format!("spec.services[{i}]"), reason);
        } else if service.external_name.is_none() && tls.server_name.is_none() {
            let reason = format!("is missing; Service {name} has no externalName to take it from");
            found.fault(resource, "spec.tls.serverName", reason);
        }
    }
}
