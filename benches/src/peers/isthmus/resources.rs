//! What the control plane is told: the mesh, the two workloads, the service that is called, and a policy whose last rule
//! allows the load. For W7 also services and rules that are only there.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use isthmus_world::Host;

use super::super::{Hops, Setting};
use crate::stage::{APP_PORT, Stage, Traffic};

/// The service's virtual address: no host has it, so that nothing answers without the mesh.
pub(crate) const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 112, 0, 10), 80);
/// Rules of the policy, as the targets have it.
pub(crate) const RULES: usize = 100;
/// Workloads without a sidecar, among which the other services are spread.
const BALLAST: usize = 10;
/// Virtual addresses of the other services count up from here.
const BALLAST_VIPS: Ipv4Addr = Ipv4Addr::new(10, 113, 0, 0);

/// Everything for a start.
pub(super) fn of(stage: &Stage, setting: Setting, telemetry: &str) -> String {
    let (caller, callee) = (&stage.hosts.client, &stage.hosts.server);
    // Without a sidecar there is nobody to speak mTLS with.
    let transport = if setting.hops == Hops::Pair { "MeshOnly" } else { "Permissive" };
    let mut text = mesh(transport, telemetry) + &site("caller", caller) + &site("callee", callee);
    text += &workload("caller", &caller.address().to_string());
    match setting.hops {
        Hops::Pair => {
            text += &workload("callee", &callee.address().to_string());
            text += &service(setting.traffic, "  selector: { app: callee }\n");
            text += &policy(setting.traffic, RULES);
        }
        Hops::One => {
            text += &service(setting.traffic, "");
            text += &endpoints(callee);
        }
    }
    text
}

fn mesh(transport: &str, telemetry: &str) -> String {
    format!(
        r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: MeshConfig
metadata: {{ name: mesh }}
spec:
  trustDomain: bench.example
  enforcement: Enforce
  vipRanges: [10.112.0.0/12]
  dnsSuffixes: [svc.cluster.local]
  defaults: {{ transport: {transport}, minTlsVersion: "1.2", action: Deny }}
  telemetry: {telemetry}
---
apiVersion: mesh.isthmus.dev/v1alpha1
kind: Link
metadata: {{ name: wire }}
spec: {{ sites: [caller-site, callee-site], paths: [{{ name: primary }}] }}
---
"#
    )
}

/// A site of one address.
fn site(name: &str, host: &Host) -> String {
    let address = host.address();
    format!(
        r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: Site
metadata: {{ name: {name}-site }}
spec: {{ ranges: [{address}/32] }}
---
"#
    )
}

fn workload(name: &str, address: &str) -> String {
    format!(
        r#"apiVersion: mesh.isthmus.dev/v1alpha1
kind: Workload
metadata: {{ namespace: bench, name: {name}, labels: {{ app: {name} }} }}
spec: {{ site: {name}-site, addresses: ["{address}"], serviceAccount: {name} }}
---
"#
    )
}

fn service(traffic: Traffic, selector: &str) -> String {
    let (vip, port) = (SERVICE.ip(), SERVICE.port());
    let protocol = match traffic {
        Traffic::Http => "http",
        Traffic::Grpc => "grpc",
        Traffic::Bytes => "tcp",
    };
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{ namespace: bench, name: backend }}
spec:
  clusterIPs: ["{vip}"]
{selector}  ports: [{{ name: app, port: {port}, targetPort: {APP_PORT}, appProtocol: {protocol} }}]
---
"#
    )
}

/// For a service without sidecars: its address by hand.
fn endpoints(host: &Host) -> String {
    let address = host.address();
    format!(
        r#"apiVersion: v1
kind: Endpoints
metadata: {{ namespace: bench, name: backend }}
subsets: [{{ addresses: [{{ ip: "{address}" }}], ports: [{{ name: app, port: {APP_PORT} }}] }}]
---
"#
    )
}

/// The rule that allows the load is the last one; each of the others is about the same caller and about something that
/// does not come, so that none can be left out by the caller's name alone.
pub(crate) fn policy(traffic: Traffic, rules: usize) -> String {
    let mut text = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\n\
                    metadata: { namespace: bench, name: backend }\n\
                    spec:\n  services: [backend]\n  transport: MeshOnly\n  allow:\n"
        .to_owned();
    let mut rule = |to: &str| {
        let _ = writeln!(text, "    - from: {{ serviceAccounts: [caller] }}\n      to: {{ {to} }}");
    };
    for number in 1..rules {
        match traffic {
            Traffic::Http | Traffic::Grpc => rule(&format!("methods: [PUT, PATCH], paths: [\"/v1/{number}/*\"]")),
            // A stream of bytes has no method and no path.
            Traffic::Bytes => rule(&format!("ports: [{}]", 20_000 + number)),
        }
    }
    match traffic {
        Traffic::Http | Traffic::Grpc => rule("methods: [GET, POST], paths: [\"/*\"]"),
        Traffic::Bytes => rule(&format!("ports: [{APP_PORT}]")),
    }
    text + "---\n"
}

/// Services that nobody calls, numbers `from` to `to`, each of one workload.
pub(crate) fn ballast(from: usize, to: usize) -> String {
    let mut text = String::new();
    if from == 0 {
        text += "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Site\nmetadata: { name: ballast-site }\n\
                 spec: { ranges: [10.200.0.0/24] }\n---\n";
        for number in 0..BALLAST {
            let _ = write!(
                text,
                "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{ namespace: ballast, name: ballast{number}, labels: {{ app: ballast{number} }} }}\n\
                 spec: {{ site: ballast-site, addresses: [\"10.200.0.{}\"], serviceAccount: ballast }}\n---\n",
                number + 1
            );
        }
    }
    for number in from..to {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: ballast, name: s{number} }}\n\
             spec: {{ clusterIPs: [\"{}\"], selector: {{ app: ballast{} }}, ports: [{{ name: http, port: 80 }}] }}\n---\n",
            ballast_vip(number),
            number % BALLAST,
        );
    }
    text
}

/// The virtual address of one of those.
pub(crate) fn ballast_vip(number: usize) -> Ipv4Addr {
    // 100,000 at most: far from the end of the range.
    Ipv4Addr::from_bits(BALLAST_VIPS.to_bits() + number as u32)
}
