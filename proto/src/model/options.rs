//! How a service's connections are carried, as its TrafficPolicy says.

use std::time::Duration;

use super::ModelError;
use super::error::unknown_value;
use crate::discovery::v1 as wire;

/// All at their defaults where nobody says anything; what depends on the protocol was resolved by the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TrafficOptions {
    pub connect: Connect,
    pub source_address: SourceAddress,
    pub proxy_protocol: ProxyProtocol,
    pub header_names: HeaderNames,
    /// How long an answer's head may take after the request last moved; `None`: the proxy's default.
    pub request_timeout: Option<Duration>,
    /// Share of new traces of its requests that is recorded; `None`: the mesh's.
    pub sampling_millionths: Option<u32>,
    /// Trace headers that its app gets beside W3C's.
    pub b3: Option<B3Headers>,
}

/// A longer timeout is none.
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// When an app's connection may begin to give bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Connect {
    /// At once: its first bytes leave with the tunnel's headers.
    #[default]
    Early,
    /// When the callee's app was reached.
    Confirm,
}

/// Whose address the callee's app sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceAddress {
    /// The caller's, where the callee's proxy is permitted to use it.
    #[default]
    Preserve,
    /// Its own proxy's.
    Proxy,
}

/// What the callee's app is told before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocol {
    #[default]
    None,
    V2,
}

/// How header names are spelled towards HTTP/1 apps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderNames {
    #[default]
    TitleCase,
    /// As the sender spelled them.
    Preserve,
}

/// The two ways to write B3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum B3Headers {
    /// `b3`
    Single,
    /// `x-b3-traceid` and the others.
    Multi,
}

/// All of them.
pub const MILLION: u32 = 1_000_000;

impl TrafficOptions {
    /// A value from the future is an error: the port then is not understood.
    pub(super) fn read(message: Option<wire::TrafficOptions>) -> Result<Self, ModelError> {
        let Some(o) = message else { return Ok(Self::default()) };
        Ok(Self {
            connect: match wire::Connect::try_from(o.connect) {
                Ok(wire::Connect::Unspecified | wire::Connect::Early) => Connect::Early,
                Ok(wire::Connect::Confirm) => Connect::Confirm,
                Err(_) => return Err(unknown_value("options.connect", o.connect)),
            },
            source_address: match wire::SourceAddress::try_from(o.source_address) {
                Ok(wire::SourceAddress::Unspecified | wire::SourceAddress::Preserve) => SourceAddress::Preserve,
                Ok(wire::SourceAddress::Proxy) => SourceAddress::Proxy,
                Err(_) => return Err(unknown_value("options.source_address", o.source_address)),
            },
            proxy_protocol: match wire::ProxyProtocol::try_from(o.proxy_protocol) {
                Ok(wire::ProxyProtocol::Unspecified | wire::ProxyProtocol::None) => ProxyProtocol::None,
                Ok(wire::ProxyProtocol::V2) => ProxyProtocol::V2,
                Err(_) => return Err(unknown_value("options.proxy_protocol", o.proxy_protocol)),
            },
            header_names: match wire::HeaderNames::try_from(o.header_names) {
                Ok(wire::HeaderNames::Unspecified | wire::HeaderNames::TitleCase) => HeaderNames::TitleCase,
                Ok(wire::HeaderNames::Preserve) => HeaderNames::Preserve,
                Err(_) => return Err(unknown_value("options.header_names", o.header_names)),
            },
            request_timeout: match Duration::from_millis(o.request_timeout_ms.into()) {
                Duration::ZERO => None,
                timeout if timeout <= MAX_REQUEST_TIMEOUT => Some(timeout),
                _ => return Err(ModelError::new("options.request_timeout_ms", "more than a day")),
            },
            sampling_millionths: match o.sampling_millionths {
                Some(many) if many > MILLION => {
                    return Err(ModelError::new("options.sampling_millionths", "more than a million"));
                }
                share => share,
            },
            b3: match wire::B3Headers::try_from(o.b3_headers) {
                Ok(wire::B3Headers::Unspecified) => None,
                Ok(wire::B3Headers::Single) => Some(B3Headers::Single),
                Ok(wire::B3Headers::Multi) => Some(B3Headers::Multi),
                Err(_) => return Err(unknown_value("options.b3_headers", o.b3_headers)),
            },
        })
    }

    /// Nothing at all where everything is at its default.
    pub fn write(self) -> Option<wire::TrafficOptions> {
        (self != Self::default()).then(|| self.into())
    }
}

impl From<TrafficOptions> for wire::TrafficOptions {
    fn from(o: TrafficOptions) -> Self {
        let connect = match o.connect {
            Connect::Early => wire::Connect::Early,
            Connect::Confirm => wire::Connect::Confirm,
        };
        let source_address = match o.source_address {
            SourceAddress::Preserve => wire::SourceAddress::Preserve,
            SourceAddress::Proxy => wire::SourceAddress::Proxy,
        };
        let proxy_protocol = match o.proxy_protocol {
            ProxyProtocol::None => wire::ProxyProtocol::None,
            ProxyProtocol::V2 => wire::ProxyProtocol::V2,
        };
        let header_names = match o.header_names {
            HeaderNames::TitleCase => wire::HeaderNames::TitleCase,
            HeaderNames::Preserve => wire::HeaderNames::Preserve,
        };
        Self {
            connect: connect.into(),
            source_address: source_address.into(),
            proxy_protocol: proxy_protocol.into(),
            header_names: header_names.into(),
            request_timeout_ms: o
                .request_timeout
                .map_or(0, |timeout| u32::try_from(timeout.min(MAX_REQUEST_TIMEOUT).as_millis()).unwrap_or(u32::MAX)),
            sampling_millionths: o.sampling_millionths,
            b3_headers: match o.b3 {
                None => wire::B3Headers::Unspecified,
                Some(B3Headers::Single) => wire::B3Headers::Single,
                Some(B3Headers::Multi) => wire::B3Headers::Multi,
            }
            .into(),
        }
    }
}
