//! A machine's certificate of a company's own CA, named in `control.yaml` with the machines that may come in by it.

use super::{Attested, Once};
use crate::config::CompanyCa;
use isthmus_certs::{foreign, pem};
use isthmus_proto::identity::v1::CertificateProof;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// The CAs, by name.
#[derive(Clone, Debug, Default)]
pub struct CompanyCas(BTreeMap<String, Known>);

#[derive(Clone, Debug)]
struct Known {
    roots: Vec<CertificateDer<'static>>,
    /// DNS name, lower case → `<namespace>/<name>`.
    workloads: BTreeMap<String, String>,
}

impl CompanyCas {
    /// Reads the roots' files.
    pub fn read(configured: &[CompanyCa]) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for company in configured {
            let path = company.roots.display();
            let text = std::fs::read(&company.roots).map_err(|error| format!("{path}: {error}"))?;
            let roots = pem::parse(&text).map_err(|error| format!("{path}: {error}"))?.certificates;
            if roots.is_empty() {
                return Err(format!("{path}: it holds no certificate"));
            }
            let lower = |(name, workload): (&String, &String)| (name.to_ascii_lowercase(), workload.clone());
            let workloads = company.workloads.iter().map(lower).collect();
            if known.insert(company.name.clone(), Known { roots, workloads }).is_some() {
                return Err(format!("attestation.certificates: two are named `{}`", company.name));
            }
        }
        Ok(CompanyCas(known))
    }

    pub(super) fn attest(&self, proof: &CertificateProof, csr_der: &[u8], now_ms: i64) -> Result<Attested, Status> {
        let name = &proof.authority;
        let company = self.0.get(name).ok_or_else(|| {
            Status::unauthenticated(format!("no CA `{}` is named in attestation.certificates", name.escape_debug()))
        })?;
        let chain: Vec<CertificateDer<'_>> = proof.chain_der.iter().map(|der| der.as_slice().into()).collect();
        let scheme = u16::try_from(proof.signature_scheme).unwrap_or(0);
        let message = [foreign::ENROL_CONTEXT, csr_der].concat();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now_ms).unwrap_or(0)));
        let good = foreign::verify(&chain, &company.roots, now, &message, scheme, &proof.signature)
            .map_err(|error| Status::unauthenticated(format!("certificate of {name}: {error}")))?;
        let mut workloads: Vec<&String> = good.dns_names.iter().filter_map(|n| company.workloads.get(n)).collect();
        workloads.sort();
        workloads.dedup();
        match workloads[..] {
            [workload] => Ok(Attested {
                workload: workload.clone(),
                proof: format!("certificate of {name}, serial {}", good.serial),
                allowed_unix_ms: 0,
                once: Once::FirstKey,
            }),
            [] => Err(Status::permission_denied(format!(
                "certificate of {name}: none of its DNS names ({}) is a machine of attestation.certificates",
                good.dns_names.join(", ")
            ))),
            [..] => Err(Status::permission_denied(format!(
                "certificate of {name}: its DNS names belong to several workloads; one machine is one workload"
            ))),
        }
    }
}
