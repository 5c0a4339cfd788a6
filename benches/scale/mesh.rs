//! What is applied: one site, services of which each selects its workloads by a label, one workload per endpoint.

use std::fmt::Write;
use std::net::Ipv4Addr;

use isthmus_proto::admin::v1::{ApplyPart, Document};

use crate::Arguments;

/// Documents of one file; each file is its own part of the apply.
const PER_FILE: usize = 2_000;
pub(crate) const NAMESPACE: &str = "sim";

/// Everything, as the parts of one apply.
pub(crate) fn parts(arguments: &Arguments) -> Vec<ApplyPart> {
    let mut files = vec![head()];
    let services: Vec<usize> = (0..arguments.services).collect();
    files.extend(services.chunks(PER_FILE).map(|chunk| chunk.iter().map(|n| service(*n)).collect::<String>()));
    let workloads: Vec<usize> = (0..arguments.endpoints).collect();
    let one = |n: &usize| workload(*n, n % arguments.services, 0);
    files.extend(workloads.chunks(PER_FILE).map(|chunk| chunk.iter().map(one).collect::<String>()));
    let document = |(n, yaml): (usize, String)| Document { source: format!("{n}.yaml"), yaml };
    let part = |document| ApplyPart { documents: vec![document], ..ApplyPart::default() };
    files.into_iter().enumerate().map(document).map(part).collect()
}

/// The workload with another service account, as often as `round` grows: its endpoint is another one for its callers.
pub(crate) fn changed(n: usize, service: usize, round: usize) -> String {
    workload(n, service, 1 + round % 2)
}

/// A workload that no service selects.
pub(crate) fn unused(round: usize) -> String {
    let mut yaml = workload(8_000_000, 0, 1 + round % 2);
    yaml = yaml.replace("labels: { app: s0 }", "labels: { app: nobody }");
    yaml
}

pub(crate) fn workload_name(n: usize) -> String {
    format!("{NAMESPACE}/w{n}")
}

pub(crate) fn service_name(n: usize) -> String {
    format!("{NAMESPACE}/s{n}")
}

fn head() -> String {
    "apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: { name: mesh }
spec: { trustDomain: bench.example, enforcement: Enforce, vipRanges: [172.16.0.0/12] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: { name: dc1 }
spec: { ranges: [10.0.0.0/8] }
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata: { namespace: sim, name: all }
spec: { allow: [{ from: { namespaces: [sim] } }] }
---
"
    .to_owned()
}

fn service(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: {NAMESPACE}, name: s{n} }}\n\
         spec: {{ selector: {{ app: s{n} }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n---\n"
    )
}

fn workload(n: usize, service: usize, account: usize) -> String {
    let ip = Ipv4Addr::from(0x0a00_0001 + u32::try_from(n).unwrap_or(0));
    let account = if account == 0 { "sim".to_owned() } else { format!("changed-{account}") };
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\n\
         metadata: {{ namespace: {NAMESPACE}, name: w{n}, labels: {{ app: s{service} }} }}\n\
         spec: {{ site: dc1, addresses: [{ip}], serviceAccount: {account} }}\n---\n"
    );
    yaml
}
