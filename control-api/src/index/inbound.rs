//! A workload's own ports, by what its services declare.

use super::endpoints::Declared;
use super::policy::Policies;
use crate::validate::resource::Resource;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::AppProtocol;
use std::collections::BTreeMap;

/// One entry per port of the app. Where two services differ about a port's protocol, the first that says anything wins
/// (services come in the order of their names); one that says nothing leaves it to detection.
pub(super) fn ports(workload: &Resource, declared: &[Declared], policies: &Policies) -> Vec<wire::InboundPort> {
    let mut by_port: BTreeMap<u16, (AppProtocol, Vec<&str>)> = BTreeMap::new();
    for declared in declared {
        let (protocol, services) = by_port.entry(declared.target).or_insert((AppProtocol::Detect, Vec::new()));
        if *protocol == AppProtocol::Detect {
            *protocol = declared.protocol;
        }
        if !services.contains(&declared.service.as_str()) {
            services.push(&declared.service);
        }
    }
    let namespace = &workload.key.namespace;
    let port = |(port, (protocol, services)): (u16, (AppProtocol, Vec<&str>))| wire::InboundPort {
        port: port.into(),
        protocol: wire::AppProtocol::from(protocol).into(),
        policy: Some(policies.for_port(workload, &services)),
        services: services.iter().map(|service| format!("{namespace}/{service}")).collect(),
    };
    by_port.into_iter().map(port).collect()
}
