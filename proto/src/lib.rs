//! The wire contract between control plane, proxies and operators: the generated messages, clients and servers, and
//! [`model`], the parsed, always-valid form that both sides work with.
//!
//! Nothing outside this crate should decide by reading a generated message: a proto3 default means "absent or from the
//! future", and only [`model`] tells the two apart from a real value.

pub mod codec;
pub mod model;
mod redact;
pub mod view;

/// Enrolment and renewal of certificates.
pub mod identity {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.identity.v1");
    }
}

/// What a proxy is told.
pub mod discovery {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.discovery.v1");
    }
}

/// What operators and pipelines do.
pub mod admin {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.admin.v1");
    }
}

/// What proxies report of their decisions.
pub mod flows {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.flows.v1");
    }
}

/// What proxies tell of what passes now, while somebody looks.
pub mod live {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.live.v1");
    }
}

/// What proxies tell of traces, where no collector is configured.
pub mod traces {
    #[allow(unreachable_pub, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("isthmus.traces.v1");
    }
}

/// The protos as they were compiled, for reflection: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the discovery protocol, as `Hello` and `Welcome` state it.
pub const PROTOCOL: u32 = 1;

/// Every feature that this build understands when it is named in `requires`. A name is added here together with the
/// code that honours it, and never taken out.
pub const FEATURES: &[&str] = &[
    "rules/v1",
    "transport/v1",
    "proxy-protocol/v2",
    "rules/v2",
    "until/v1",
    "egress/v1",
    "external/v1",
    "standing/v1",
    "crypto-profile/v1",
    "seen-as/v1",
    LIVE,
    PROBED,
];

/// Of a proxy that answers [`live::v1::Question`]s. One that does not would take the question for an error.
pub const LIVE: &str = "live/v1";

/// Of a control plane that takes [`discovery::v1::Probed`].
pub const PROBED: &str = "probed/v1";

/// The first of `requires` that this build does not understand.
pub fn missing_feature(requires: &[String]) -> Option<&str> {
    requires.iter().map(String::as_str).find(|name| !FEATURES.contains(name))
}

#[cfg(test)]
mod schema_test;
