//! Look-ups for those who ask about views without being a proxy.

use super::Index;
use crate::validate::ResourceRef;
use crate::views;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::ServiceName;

impl Index {
    /// The names of all workloads, in no order.
    pub fn workload_names(&self) -> impl Iterator<Item = &String> {
        self.workloads.keys()
    }

    pub fn inbound_of(&self, workload: &str) -> Option<&wire::Inbound> {
        self.workloads.get(workload).and_then(|known| views::inbound(&known.inbound))
    }

    /// What may leave the mesh from there.
    pub fn egress_of(&self, workload: &str) -> Option<&wire::Egress> {
        self.workloads.get(workload).and_then(|known| views::egress(&known.egress))
    }

    /// `<namespace>/<name>` of the services that declare this port of the app.
    pub fn services_of_port(&self, workload: &str, port: u32) -> &[String] {
        let found = self.inbound_of(workload).and_then(|inbound| inbound.ports.iter().find(|p| p.port == port));
        found.map(|port| port.services.as_slice()).unwrap_or_default()
    }

    /// Whether a service (`<namespace>/<name>`) declares any port of the workload.
    pub fn declares(&self, workload: &str, service: &str) -> bool {
        self.inbound_of(workload)
            .is_some_and(|inbound| inbound.ports.iter().any(|port| port.services.iter().any(|name| name == service)))
    }

    pub fn service(&self, key: &ResourceRef) -> Option<&wire::Service> {
        let name = ServiceName::new(&key.namespace, &key.name).ok()?;
        match &self.services.get(&name)?.body {
            Some(wire::resource::Body::Service(service)) => Some(service),
            _ => None,
        }
    }

    /// The mesh as the proxies of some site see it: that of any other differs in its own site alone.
    pub fn any_mesh(&self) -> Option<wire::Mesh> {
        let first = self.mesh.iter().min_by_key(|(site, _)| *site)?;
        match &first.1.body {
            Some(wire::resource::Body::Mesh(mesh)) => Some(mesh.clone()),
            _ => None,
        }
    }
}
