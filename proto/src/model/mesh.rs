//! The world as a proxy has to know it.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use isthmus_certs::{
    CryptoProfile, Federation, RevocationProof, Revocations, Serial, SpiffeId, TrustBundle, TrustDomain,
};

use super::error::{each, each_message, parse, unknown_value};
use super::{ModelError, SiteName, Understood};
use crate::discovery::v1 as wire;

/// What every snapshot holds, whatever its workload uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    pub enforcement: Enforcement,
    /// The site of the proxy that is told.
    pub site: SiteName,
    pub sites: Vec<Site>,
    pub vip_ranges: Vec<IpNet>,
    pub dns_suffixes: Vec<String>,
    pub links: Vec<Link>,
    /// Roots of the trust domain, DER. May be empty: then the roots known so far stay.
    pub roots_der: Vec<Vec<u8>>,
    /// Not understood: nothing is exported, and nothing is refused for it.
    pub telemetry: Understood<Telemetry>,
    /// What a newly issued leaf lives for, where the control plane says so.
    pub leaf_lifetime: Option<Duration>,
    pub revocations: Revocations,
    pub crypto_profile: CryptoProfile,
    /// Other trust domains that are believed.
    pub trust_domains: Federation,
    pub upkeep: Upkeep,
}

/// How certificates follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// The root that issues now, where the control plane says so: holders of others renew soon.
    pub issuing_root: Option<[u8; 32]>,
    /// The time over which those renewals are spread.
    pub renew_within: Duration,
    /// How long a stream may go on after its peer's certificate has ended.
    pub max_stream_age: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { issuing_root: None, renew_within: Duration::ZERO, max_stream_age: Duration::from_secs(86_400) }
    }
}

/// Whether refusals are carried out or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    Observe,
    Enforce,
}

/// A place with its own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub name: SiteName,
    pub ranges: Vec<IpNet>,
    /// Its DNS resolvers.
    pub resolvers: Vec<IpAddr>,
    /// What elsewhere sees in place of its own addresses.
    pub seen_as: Vec<IpNet>,
}

/// What joins two sites. Has no direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub site_a: SiteName,
    pub site_b: SiteName,
}

/// Where spans go, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// Absent: no export.
    pub otlp: Option<OtlpEndpoint>,
    /// 0 to 1.
    pub sampling_ratio: f64,
    pub keep: KeepSpans,
    /// How often the counters go there, too.
    pub metrics_every: Option<Duration>,
}

/// What is recorded for how it ended, whatever the ratio is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepSpans {
    pub errors: bool,
    pub denied: bool,
    pub slower_than: Option<Duration>,
}

/// An OTLP receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtlpEndpoint {
    /// `http://host:port`, or with a path: then OTLP goes over HTTP.
    Http(String),
    /// An absolute path; `unix:/path` on the wire.
    Unix(String),
}

impl TryFrom<wire::Mesh> for Mesh {
    type Error = ModelError;

    fn try_from(m: wire::Mesh) -> Result<Self, ModelError> {
        let telemetry = match m.telemetry {
            Some(telemetry) => Telemetry::try_from(telemetry).map_err(|e| e.within("telemetry")),
            None => Ok(Telemetry::default()),
        };
        Ok(Self {
            trust_domain: TrustDomain::parse(&m.trust_domain).map_err(|e| ModelError::new("trust_domain", e))?,
            enforcement: Enforcement::read(m.enforcement)?,
            site: m.site.parse().map_err(|e| ModelError::new("site", e))?,
            sites: each_message("sites", m.sites)?,
            vip_ranges: each("vip_ranges", &m.vip_ranges, parse)?,
            dns_suffixes: m.dns_suffixes,
            links: each_message("links", m.links)?,
            roots_der: m.roots_der,
            telemetry,
            leaf_lifetime: match m.leaf_lifetime_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(seconds.into())),
            },
            revocations: read_revocations(m.revocations.unwrap_or_default()).map_err(|e| e.within("revocations"))?,
            crypto_profile: read_profile(m.crypto_profile)?,
            trust_domains: read_federation(m.trust_domains).map_err(|e| e.within("trust_domains"))?,
            upkeep: Upkeep::try_from(m.upkeep.unwrap_or_default()).map_err(|e| e.within("upkeep"))?,
        })
    }
}

impl From<Mesh> for wire::Mesh {
    fn from(m: Mesh) -> Self {
        Self {
            trust_domain: m.trust_domain.as_str().to_owned(),
            enforcement: wire::Enforcement::from(m.enforcement).into(),
            site: m.site.into(),
            sites: m.sites.into_iter().map(Into::into).collect(),
            vip_ranges: m.vip_ranges.iter().map(ToString::to_string).collect(),
            dns_suffixes: m.dns_suffixes,
            links: m.links.into_iter().map(Into::into).collect(),
            roots_der: m.roots_der,
            telemetry: m.telemetry.ok().map(Into::into),
            leaf_lifetime_seconds: m.leaf_lifetime.map_or(0, |d| u32::try_from(d.as_secs()).unwrap_or(u32::MAX)),
            revocations: (m.revocations != Revocations::default()).then(|| write_revocations(&m.revocations)),
            crypto_profile: write_profile(m.crypto_profile).into(),
            trust_domains: write_federation(&m.trust_domains),
            upkeep: Some(m.upkeep.into()),
        }
    }
}

impl TryFrom<wire::Upkeep> for Upkeep {
    type Error = ModelError;

    fn try_from(u: wire::Upkeep) -> Result<Self, ModelError> {
        let root = u.issuing_root_sha256.as_slice();
        let issuing_root = match root {
            [] => None,
            root => Some(root.try_into().map_err(|_| ModelError::new("issuing_root_sha256", "is not 32 bytes"))?),
        };
        let max_stream_age = u.max_stream_age_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Self {
            issuing_root,
            renew_within: Duration::from_secs(u.renew_within_seconds.into()),
            max_stream_age: max_stream_age.unwrap_or(Self::default().max_stream_age),
        })
    }
}

impl From<Upkeep> for wire::Upkeep {
    fn from(u: Upkeep) -> Self {
        let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
        Self {
            issuing_root_sha256: u.issuing_root.map(Vec::from).unwrap_or_default(),
            renew_within_seconds: seconds(u.renew_within),
            max_stream_age_seconds: Some(seconds(u.max_stream_age)),
        }
    }
}

/// One that cannot be read fails the whole snapshot: left out, it would let somebody in.
pub fn read_revocations(r: wire::Revocations) -> Result<Revocations, ModelError> {
    let mut read = Revocations { epoch: r.epoch, ..Revocations::default() };
    for serial in r.serials {
        let serial = Serial::from_bytes(&serial).ok_or_else(|| ModelError::new("serials", "longer than 20 bytes"))?;
        read.serials.insert(serial);
    }
    for identity in r.identities {
        let id = SpiffeId::parse(&identity.spiffe_id).map_err(|e| ModelError::new("identities", e))?;
        read.identities.insert(id, identity.issued_until_unix_s);
    }
    let (signed_unix_s, signature) = (r.signed_unix_s, r.signature);
    let chain = r.chain_der.into_iter().map(Into::into).collect();
    read.proof = (!signature.is_empty()).then_some(RevocationProof { signed_unix_s, chain, signature });
    Ok(read)
}

/// As the control plane sends them.
pub fn write_revocations(r: &Revocations) -> wire::Revocations {
    let identity = |(id, until): (&SpiffeId, &u64)| wire::RevokedIdentity {
        spiffe_id: id.as_str().to_owned(),
        issued_until_unix_s: *until,
    };
    let proof = r.proof.as_ref();
    wire::Revocations {
        signed_unix_s: proof.map_or(0, |proof| proof.signed_unix_s),
        chain_der: proof.map(|proof| proof.chain.iter().map(|der| der.to_vec()).collect()).unwrap_or_default(),
        signature: proof.map(|proof| proof.signature.clone()).unwrap_or_default(),
        epoch: r.epoch,
        serials: r.serials.iter().map(|serial| serial.as_bytes().to_vec()).collect(),
        identities: r.identities.iter().map(identity).collect(),
    }
}

fn read_profile(value: i32) -> Result<CryptoProfile, ModelError> {
    match wire::CryptoProfile::try_from(value) {
        Ok(wire::CryptoProfile::Unspecified | wire::CryptoProfile::Default) => Ok(CryptoProfile::Default),
        Ok(wire::CryptoProfile::Fips) => Ok(CryptoProfile::Fips),
        Err(_) => Err(unknown_value("crypto_profile", value)),
    }
}

/// As the control plane sends it.
pub fn write_profile(profile: CryptoProfile) -> wire::CryptoProfile {
    match profile {
        CryptoProfile::Default => wire::CryptoProfile::Default,
        CryptoProfile::Fips => wire::CryptoProfile::Fips,
    }
}

fn read_federation(bundles: Vec<wire::TrustDomainBundle>) -> Result<Federation, ModelError> {
    let mut read = Federation::new();
    for bundle in bundles {
        let name = TrustDomain::parse(&bundle.trust_domain).map_err(|e| ModelError::new("trust_domain", e))?;
        let roots = match bundle.roots_der.is_empty() {
            true => TrustBundle::empty(),
            false => TrustBundle::from_ders(&bundle.roots_der).map_err(|e| ModelError::new("roots_der", e))?,
        };
        read.insert(name, roots);
    }
    Ok(read)
}

/// As the control plane sends it.
pub fn write_federation(federation: &Federation) -> Vec<wire::TrustDomainBundle> {
    let bundle = |(name, bundle): (&TrustDomain, &TrustBundle)| wire::TrustDomainBundle {
        trust_domain: name.to_string(),
        roots_der: bundle.roots().iter().map(|root| root.to_vec()).collect(),
    };
    federation.iter().map(bundle).collect()
}

impl Enforcement {
    fn read(value: i32) -> Result<Self, ModelError> {
        match wire::Enforcement::try_from(value) {
            Ok(wire::Enforcement::Observe) => Ok(Self::Observe),
            Ok(wire::Enforcement::Enforce) => Ok(Self::Enforce),
            Ok(wire::Enforcement::Unspecified) | Err(_) => Err(unknown_value("enforcement", value)),
        }
    }
}

impl From<Enforcement> for wire::Enforcement {
    fn from(e: Enforcement) -> Self {
        match e {
            Enforcement::Observe => Self::Observe,
            Enforcement::Enforce => Self::Enforce,
        }
    }
}

impl TryFrom<wire::Site> for Site {
    type Error = ModelError;

    fn try_from(s: wire::Site) -> Result<Self, ModelError> {
        Ok(Self {
            name: s.name.parse().map_err(|e| ModelError::new("name", e))?,
            ranges: each("ranges", &s.ranges, parse)?,
            resolvers: each("resolvers", &s.resolvers, parse)?,
            seen_as: each("seen_as", &s.seen_as, parse)?,
        })
    }
}

impl From<Site> for wire::Site {
    fn from(s: Site) -> Self {
        Self {
            name: s.name.into(),
            ranges: s.ranges.iter().map(ToString::to_string).collect(),
            resolvers: s.resolvers.iter().map(ToString::to_string).collect(),
            seen_as: s.seen_as.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::Link> for Link {
    type Error = ModelError;

    fn try_from(l: wire::Link) -> Result<Self, ModelError> {
        Ok(Self {
            name: l.name,
            site_a: l.site_a.parse().map_err(|e| ModelError::new("site_a", e))?,
            site_b: l.site_b.parse().map_err(|e| ModelError::new("site_b", e))?,
        })
    }
}

impl From<Link> for wire::Link {
    fn from(l: Link) -> Self {
        Self { name: l.name, site_a: l.site_a.into(), site_b: l.site_b.into() }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp: None, sampling_ratio: 0.0, keep: KeepSpans::default(), metrics_every: None }
    }
}

impl TryFrom<wire::Telemetry> for Telemetry {
    type Error = ModelError;

    fn try_from(t: wire::Telemetry) -> Result<Self, ModelError> {
        if !(0.0..=1.0).contains(&t.sampling_ratio) {
            return Err(ModelError::new("sampling_ratio", format!("{} is not between 0 and 1", t.sampling_ratio)));
        }
        let otlp = match t.otlp_endpoint.as_str() {
            "" => None,
            text if text.starts_with("http://") && text.len() > "http://".len() => {
                Some(OtlpEndpoint::Http(t.otlp_endpoint))
            }
            text => match text.strip_prefix("unix:") {
                Some(path) if path.starts_with('/') => Some(OtlpEndpoint::Unix(path.to_owned())),
                _ => {
                    return Err(ModelError::new(
                        "otlp_endpoint",
                        "reads `http://host:port`, `http://host:port/path` or `unix:/path`",
                    ));
                }
            },
        };
        let keep = t.keep.unwrap_or_default();
        let slower_than = (keep.slower_than_ms > 0).then(|| Duration::from_millis(keep.slower_than_ms.into()));
        let keep = KeepSpans { errors: keep.errors, denied: keep.denied, slower_than };
        let metrics_every = (t.metrics_every_ms > 0).then(|| Duration::from_millis(t.metrics_every_ms.into()));
        Ok(Self { otlp, sampling_ratio: t.sampling_ratio, keep, metrics_every })
    }
}

impl From<Telemetry> for wire::Telemetry {
    fn from(t: Telemetry) -> Self {
        Self {
            otlp_endpoint: match t.otlp {
                None => String::new(),
                Some(OtlpEndpoint::Http(uri)) => uri,
                Some(OtlpEndpoint::Unix(path)) => format!("unix:{path}"),
            },
            sampling_ratio: t.sampling_ratio,
            keep: (t.keep != KeepSpans::default()).then(|| wire::KeepSpans {
                errors: t.keep.errors,
                denied: t.keep.denied,
                slower_than_ms: t.keep.slower_than.map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
            }),
            metrics_every_ms: t.metrics_every.map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX)),
        }
    }
}
