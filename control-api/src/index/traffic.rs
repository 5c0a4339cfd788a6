//! From TrafficPolicies and a port's hint to how its connections are carried. A policy that names a service wins over
//! one of its whole namespace, option by option.

use crate::validate::ResourceRef;
use crate::validate::resource::{AppProtocol, ProxyProtocol, ServicePort, Spec, TlsOrigination, TrafficPolicy};
use crate::validate::set::{EVERY, Set};
use isthmus_proto::model::{HealthCheck, TrafficOptions};

/// The TrafficPolicies of one service, the most specific first.
pub(super) struct Traffic<'a>(Vec<&'a TrafficPolicy>);

impl<'a> Traffic<'a> {
    pub(super) fn of(set: &'a Set, namespace: &str, service: &str) -> Self {
        let policies = |name: &str| {
            let named = set.referrers(&ResourceRef::new("Service", namespace, name));
            named.filter_map(|resource| match &resource.spec {
                Spec::TrafficPolicy(policy) => Some(policy),
                _ => None,
            })
        };
        Traffic(policies(service).chain(policies(EVERY)).collect())
    }

    /// What is spoken on a port of the service, as far as the proxies are concerned, and its options.
    pub(super) fn carried(&self, port: &ServicePort) -> (AppProtocol, TrafficOptions) {
        let base = TrafficOptions::default();
        let options = TrafficOptions {
            connect: self.said(|policy| policy.connect).unwrap_or(port.connect),
            source_address: self.said(|policy| policy.source_address).unwrap_or(base.source_address),
            proxy_protocol: self.said(|policy| policy.proxy_protocol).unwrap_or(base.proxy_protocol),
            header_names: self.said(|policy| policy.header_names).unwrap_or(base.header_names),
            request_timeout: self.said(|policy| policy.request_timeout),
            sampling_millionths: self.said(|policy| policy.sampling_millionths),
            b3: self.said(|policy| policy.b3),
        };
        (protocol(port.protocol, options.proxy_protocol), options)
    }

    /// TLS that callers' proxies begin.
    pub(super) fn tls(&self) -> Option<&'a TlsOrigination> {
        self.0.iter().find_map(|policy| policy.tls.as_ref())
    }

    /// How endpoints outside are probed.
    pub(super) fn health_check(&self) -> Option<&'a HealthCheck> {
        self.0.iter().find_map(|policy| policy.health_check.as_ref())
    }

    fn said<T: Copy>(&self, option: impl Fn(&TrafficPolicy) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(|policy| option(policy))
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
