//! Services and workloads as the outbound path uses them.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use isthmus_proto::model::{self, Endpoint, External, ServiceName, ServicePort, SiteName, Understood};

use super::order::Order;

/// A port that was looked up by its number.
#[derive(Debug, Clone)]
pub enum Port {
    Declared(Arc<ServicePort>),
    Undeclared,
    /// Declared in a way that this build cannot read.
    NotUnderstood,
}

/// A service that the app may call.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub hostnames: Vec<String>,
    pub vips: Vec<IpAddr>,
    /// Those that can be used; see also [`Service::unusable_endpoints`].
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Endpoints that need a feature which this build lacks. They get no traffic.
    pub unusable_endpoints: usize,
    /// `None`: it is in the mesh.
    pub external: Option<Arc<External>>,
    ports: Ports,
    order: OnceLock<Order>,
}

/// A workload that is addressed directly, by its own address.
#[derive(Debug)]
pub struct Workload {
    pub endpoint: Arc<Endpoint>,
    ports: Ports,
}

#[derive(Debug)]
struct Ports(Vec<(u16, Option<Arc<ServicePort>>)>);

impl Ports {
    fn new(ports: Vec<(u16, Understood<ServicePort>)>) -> Self {
        Self(ports.into_iter().map(|(number, port)| (number, port.ok().map(Arc::new))).collect())
    }

    fn get(&self, number: u16) -> Port {
        match self.0.iter().find(|(known, _)| *known == number) {
            Some((_, Some(port))) => Port::Declared(Arc::clone(port)),
            Some((_, None)) => Port::NotUnderstood,
            None => Port::Undeclared,
        }
    }
}

impl Service {
    pub fn port(&self, number: u16) -> Port {
        self.ports.get(number)
    }

    /// Gives `choose` the endpoints by how near they are to `own_site`. A proxy's site changes when it is configured anew,
    /// and then until the service is: for that time the order is made each time. No `Arc`: its count would be shared by
    /// all workers, for each request.
    pub fn with_order<T>(&self, own_site: Option<&SiteName>, choose: impl FnOnce(&Order) -> T) -> T {
        let order = self.order.get_or_init(|| Order::new(&self.endpoints, own_site));
        if order.is_of(own_site) { choose(order) } else { choose(&Order::new(&self.endpoints, own_site)) }
    }

    /// The declared ports that can be used.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.ports.0.iter().filter_map(|(_, port)| port.as_ref())
    }
}

impl Workload {
    pub fn port(&self, number: u16) -> Port {
        self.ports.get(number)
    }
}

impl From<model::Service> for Service {
    fn from(s: model::Service) -> Self {
        let all = s.endpoints.len();
        let endpoints: Vec<_> = s.endpoints.into_iter().flatten().map(Arc::new).collect();
        Self {
            name: s.name,
            hostnames: s.hostnames,
            vips: s.vips.iter().map(IpAddr::to_canonical).collect(),
            unusable_endpoints: all - endpoints.len(),
            endpoints,
            external: s.external.map(Arc::new),
            ports: Ports::new(s.ports),
            order: OnceLock::new(),
        }
    }
}

impl From<model::Workload> for Workload {
    fn from(w: model::Workload) -> Self {
        Self { endpoint: Arc::new(w.endpoint), ports: Ports::new(w.ports) }
    }
}
