//! From TrafficPolicies and a port's hint to how its connections are carried. A policy that names a service wins over
//! one of its whole namespace, option by option.

use crate::validate::cross::Set;
use crate::validate::resource::{AppProtocol, ProxyProtocol, ServicePort, Spec, TrafficPolicy};
use isthmus_proto::model::TrafficOptions;
use std::collections::HashMap;

/// All TrafficPolicies of a mesh, by namespace.
pub(super) struct Traffic<'a>(HashMap<&'a str, Vec<&'a TrafficPolicy>>);

impl<'a> Traffic<'a> {
    pub(super) fn of(set: &'a Set) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&TrafficPolicy>> = HashMap::new();
        for resource in set.values() {
            if let Spec::TrafficPolicy(policy) = &resource.spec {
                by_namespace.entry(&resource.key.namespace).or_default().push(policy);
            }
        }
        Traffic(by_namespace)
    }

    /// What is spoken on a service's port, as far as the proxies are concerned, and its options.
    pub(super) fn carried(&self, namespace: &str, service: &str, port: &ServicePort) -> (AppProtocol, TrafficOptions) {
        let base = TrafficOptions::default();
        let options = TrafficOptions {
            connect: self.said(namespace, service, |policy| policy.connect).unwrap_or(port.connect),
            source_address: self.said(namespace, service, |p| p.source_address).unwrap_or(base.source_address),
            proxy_protocol: self.said(namespace, service, |p| p.proxy_protocol).unwrap_or(base.proxy_protocol),
            header_names: self.said(namespace, service, |p| p.header_names).unwrap_or(base.header_names),
            request_timeout: self.said(namespace, service, |p| p.request_timeout),
        };
        (protocol(port.protocol, options.proxy_protocol), options)
    }

    fn said<T: Copy>(&self, namespace: &str, service: &str, option: impl Fn(&TrafficPolicy) -> Option<T>) -> Option<T> {
        let all = self.0.get(namespace).map(Vec::as_slice).unwrap_or_default();
        let named = all.iter().filter(|policy| policy.services.iter().any(|name| name == service));
        let whole = all.iter().filter(|policy| policy.services.is_empty());
        named.chain(whole).find_map(|policy| option(policy))
    }
}

/// A PROXY header speaks for one caller and one connection, and requests of many callers share an app's HTTP
/// connections: such a port is carried as bytes.
fn protocol(spoken: AppProtocol, proxy_protocol: ProxyProtocol) -> AppProtocol {
    match spoken {
        AppProtocol::Detect | AppProtocol::Http | AppProtocol::Http2 if proxy_protocol == ProxyProtocol::V2 => {
            AppProtocol::Tcp
        }
        spoken => spoken,
    }
}
