//! The parsed, always-valid form of what travels on the discovery stream.
//!
//! Each type is made with `TryFrom` from its message; the error names the field and the reason. What cannot be read is
//! refused at the smallest piece that decides: a rule, a port policy, an endpoint, a service port, a resource. Such a
//! piece is kept as the `Err` of [`Understood`], never dropped and never read as a default, because a rule without the
//! condition that we could not read would let more through than its author meant. A name in `requires` that is not in
//! [`FEATURES`](crate::FEATURES) and an enum value from the future are the same case.

mod delta;
mod egress;
mod endpoint;
mod error;
mod external;
pub mod flow;
mod health;
pub mod hint;
mod inbound;
mod mesh;
mod name;
mod options;
mod pattern;
mod rule;
mod service;

pub use delta::{Body, Delta, Resource, ResourceKey};
pub use egress::{Egress, EgressConditions, EgressDefault, EgressRule};
pub use endpoint::{Address, Endpoint, MeshPeer, Target, Workload};
pub use error::{ModelError, Understood};
pub use external::{External, TlsOrigination};
pub use health::{Asking, HealthCheck, LONGEST_INTERVAL, MOST_IN_A_ROW, SHORTEST_INTERVAL};
pub use inbound::{Action, Inbound, InboundPort, PortPolicy, Probe, Probing, Registered, Standing};
pub use mesh::{
    Enforcement, KeepSpans, Link, Mesh, OtlpEndpoint, Site, Telemetry, Upkeep, read_revocations, write_federation,
    write_profile, write_revocations,
};
pub use name::{ServiceName, SiteName, WorkloadName};
pub use options::{
    B3Headers, Connect, HeaderNames, MAX_REQUEST_TIMEOUT, MILLION, ProxyProtocol, SourceAddress, TrafficOptions,
};
pub use pattern::{GrpcPattern, HeaderMatch, HostPattern, IdentityPattern, PathPattern, Template, is_numeric};
pub use rule::{Conditions, Rule, RuleMode};
pub use service::{AppProtocol, Service, ServicePort, TlsVersion, Transport};

/// No list on the wire may be longer: 100,000 endpoints are the design size of a whole mesh.
pub const MAX_LIST: usize = 100_000;
/// Rules of one port policy, values of one condition.
pub const MAX_RULES: usize = 10_000;
/// A name, host, path or header value, bytes.
pub const MAX_TEXT: usize = 4_096;

#[cfg(test)]
#[path = "arbitrary_test.rs"]
mod arbitrary_test;

#[cfg(test)]
#[path = "model_test.rs"]
mod model_test;
