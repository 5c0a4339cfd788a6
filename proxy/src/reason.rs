//! Why something did not happen. One word per reason, the same in the log, the metric label, the span attribute, the
//! `isthmus-denied` response header and `isthmus explain`.

use std::fmt;

/// Every refusal, reset and failure that the proxy can answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No allow rule matched, and the default is to deny.
    NotAllowed,
    /// A deny rule matched.
    DeniedByRule,
    /// The service takes mesh mTLS (or its own TLS) only, and these bytes are plain.
    Plaintext,
    /// TLS of the app's own, where the service takes mesh mTLS only.
    MeshOnly,
    /// The app's own TLS is older than the service's `minTlsVersion`.
    TlsVersion,
    /// TLS of the app's own, on a port that is not declared TLS.
    TlsNotDeclared,
    /// A name was seen (SNI, Host) that is not the one which policy allows for this address.
    NameMismatch,
    /// The site's resolver gives no usable address for a name that policy allows.
    NameUnresolved,
    /// UDP that policy does not let leave: it cannot be looked into.
    Udp,
    /// The address is in the mesh's ranges and nobody knows it.
    DestinationUnknown,
    /// A mesh peer asked for an address that is not this workload's.
    NotMyAddress,
    /// A mesh peer asked for loopback or one of the proxy's own ports.
    ForbiddenPort,
    /// An internal header was missing, repeated or malformed.
    BadInternalHeader,
    /// The message was not HTTP that can be understood in only one way.
    MalformedRequest,
    /// A body whose end can be read in more than one way: request smuggling.
    AmbiguousFraming,
    /// More header bytes or fields than may pass.
    HeadersTooLarge,
    /// A request's head did not come in time.
    RequestTimeout,
    /// The app's answer was not HTTP that can be understood in only one way.
    MalformedResponse,
    /// The caller left inside its request.
    CallerGone,
    /// A rule or endpoint needs a feature that this proxy lacks.
    UnknownFeature,
    /// The service has no endpoint that can take the request.
    NoEndpoint,
    /// The endpoint could not be reached.
    ConnectFailed,
    /// The peer's certificate is not one that this endpoint may have.
    PeerIdentity,
    /// The app refused the connection or closed it before it answered.
    AppUnreachable,
    /// A WebSocket over HTTP/2 (extended CONNECT) for an app that does not take them.
    NoWebsockets,
    /// Nobody answered in time.
    Timeout,
    /// The connection was not redirected here by capture: nothing but capture may use this port.
    NotRedirected,
    /// A bound was reached: connections, streams, header bytes.
    Overloaded,
    /// No snapshot yet: the proxy has not completed its first sync.
    NotReady,
    /// The proxy is stopping.
    ShuttingDown,
}

impl Reason {
    /// Every reason, for metrics and documentation.
    pub const ALL: &[Reason] = &[
        Reason::NotAllowed,
        Reason::DeniedByRule,
        Reason::Plaintext,
        Reason::MeshOnly,
        Reason::TlsVersion,
        Reason::TlsNotDeclared,
        Reason::NameMismatch,
        Reason::NameUnresolved,
        Reason::Udp,
        Reason::DestinationUnknown,
        Reason::NotMyAddress,
        Reason::ForbiddenPort,
        Reason::BadInternalHeader,
        Reason::MalformedRequest,
        Reason::AmbiguousFraming,
        Reason::HeadersTooLarge,
        Reason::RequestTimeout,
        Reason::MalformedResponse,
        Reason::CallerGone,
        Reason::UnknownFeature,
        Reason::NoEndpoint,
        Reason::ConnectFailed,
        Reason::PeerIdentity,
        Reason::AppUnreachable,
        Reason::NoWebsockets,
        Reason::Timeout,
        Reason::NotRedirected,
        Reason::Overloaded,
        Reason::NotReady,
        Reason::ShuttingDown,
    ];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Reason::NotAllowed => "not-allowed",
            Reason::DeniedByRule => "denied-by-rule",
            Reason::Plaintext => "plaintext",
            Reason::MeshOnly => "mesh-only",
            Reason::TlsVersion => "tls-version",
            Reason::TlsNotDeclared => "tls-not-declared",
            Reason::NameMismatch => "name-mismatch",
            Reason::NameUnresolved => "name-unresolved",
            Reason::Udp => "udp",
            Reason::DestinationUnknown => "destination-unknown",
            Reason::NotMyAddress => "not-my-address",
            Reason::ForbiddenPort => "forbidden-port",
            Reason::BadInternalHeader => "bad-internal-header",
            Reason::MalformedRequest => "malformed-request",
            Reason::AmbiguousFraming => "ambiguous-framing",
            Reason::HeadersTooLarge => "headers-too-large",
            Reason::RequestTimeout => "request-timeout",
            Reason::MalformedResponse => "malformed-response",
            Reason::CallerGone => "caller-gone",
            Reason::UnknownFeature => "unknown-feature",
            Reason::NoEndpoint => "no-endpoint",
            Reason::ConnectFailed => "connect-failed",
            Reason::PeerIdentity => "peer-identity",
            Reason::AppUnreachable => "app-unreachable",
            Reason::NoWebsockets => "no-websockets",
            Reason::Timeout => "timeout",
            Reason::NotRedirected => "not-redirected",
            Reason::Overloaded => "overloaded",
            Reason::NotReady => "not-ready",
            Reason::ShuttingDown => "shutting-down",
        }
    }

    /// The HTTP status an HTTP caller gets.
    pub const fn status(self) -> u16 {
        match self {
            Reason::NotAllowed
            | Reason::DeniedByRule
            | Reason::Plaintext
            | Reason::MeshOnly
            | Reason::TlsVersion
            | Reason::TlsNotDeclared
            | Reason::NameMismatch
            | Reason::Udp => 403,
            Reason::NotMyAddress | Reason::ForbiddenPort | Reason::UnknownFeature | Reason::NotRedirected => 403,
            Reason::BadInternalHeader | Reason::MalformedRequest | Reason::AmbiguousFraming | Reason::CallerGone => 400,
            Reason::RequestTimeout => 408,
            Reason::HeadersTooLarge => 431,
            Reason::NoWebsockets => 501,
            Reason::MalformedResponse => 502,
            Reason::NameUnresolved
            | Reason::DestinationUnknown
            | Reason::ConnectFailed
            | Reason::PeerIdentity
            | Reason::AppUnreachable => 502,
            Reason::NoEndpoint | Reason::Overloaded | Reason::NotReady | Reason::ShuttingDown => 503,
            Reason::Timeout => 504,
        }
    }

    /// Its place in [`Reason::ALL`], for counters kept in an array.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
