//! A workload's own ports, by what its services declare.

use super::endpoints::Declared;
use super::policy::Policies;
use crate::validate::resource::Resource;
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{AppProtocol, ProxyProtocol, TrafficOptions};
use std::collections::BTreeMap;

/// What a proxy has to understand where the app reads a PROXY header: without it, a caller could write its own.
const PROXY_PROTOCOL: &str = "proxy-protocol/v2";

/// What services say of one port.
#[derive(Default)]
struct Said<'a> {
    protocol: Option<AppProtocol>,
    options: TrafficOptions,
    services: Vec<&'a str>,
}

/// One entry per port of the app. Where two services differ about a port's protocol, the first that says anything wins
/// (services come in the order of their names); one that says nothing leaves it to detection. So it is with its options.
pub(super) fn ports(workload: &Resource, declared: &[Declared], policies: &Policies) -> Vec<wire::InboundPort> {
    let mut by_port: BTreeMap<u16, Said> = BTreeMap::new();
    for declared in declared {
        let said = by_port.entry(declared.target).or_default();
        if said.protocol.is_none() && declared.protocol != AppProtocol::Detect {
            said.protocol = Some(declared.protocol);
        }
        merge(&mut said.options, declared.options);
        if !said.services.contains(&declared.service.as_str()) {
            said.services.push(&declared.service);
        }
    }
    let namespace = &workload.key.namespace;
    let mut services: Vec<&str> = declared.iter().map(|declared| declared.service.as_str()).collect();
    services.sort_unstable();
    services.dedup();
    let probes = policies.probes(workload, &services);
    for (port, _) in &probes {
        by_port.entry(*port).or_default();
    }
    let port = |(port, said): (u16, Said)| {
        let mut policy = policies.for_port(workload, &said.services);
        if said.options.proxy_protocol == ProxyProtocol::V2 {
            policy.requires.push(PROXY_PROTOCOL.to_string());
        }
        wire::InboundPort {
            port: port.into(),
            protocol: wire::AppProtocol::from(said.protocol.unwrap_or(AppProtocol::Detect)).into(),
            policy: Some(policy),
            services: said.services.iter().map(|service| format!("{namespace}/{service}")).collect(),
            options: said.options.write(),
            standing: policies.standing(namespace, &said.services),
            probes: probes.iter().filter(|(of, _)| *of == port).map(|(_, probe)| probe.clone()).collect(),
            https_redirect: policies.https_redirect(workload, &said.services),
        }
    };
    by_port.into_iter().map(port).collect()
}

/// Option by option, what was said first counts.
fn merge(said: &mut TrafficOptions, more: TrafficOptions) {
    let unsaid = TrafficOptions::default();
    if said.connect == unsaid.connect {
        said.connect = more.connect;
    }
    if said.source_address == unsaid.source_address {
        said.source_address = more.source_address;
    }
    if said.proxy_protocol == unsaid.proxy_protocol {
        said.proxy_protocol = more.proxy_protocol;
    }
    if said.header_names == unsaid.header_names {
        said.header_names = more.header_names;
    }
    if said.request_timeout == unsaid.request_timeout {
        said.request_timeout = more.request_timeout;
    }
    said.sampling_millionths = said.sampling_millionths.or(more.sampling_millionths);
    said.b3 = said.b3.or(more.b3);
}
