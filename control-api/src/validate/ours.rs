//! Readers of the kinds of `mesh.isthmus.dev/v1alpha1`. Every field must be known: one that is not understood might be
//! the one that narrows.

use super::asked::Form;
use super::egress;
use super::field::Field;
use super::names::{check_host, check_label};
use super::resource::*;
use ipnet::IpNet;
use isthmus_certs::CryptoProfile;
use std::net::IpAddr;
use std::time::Duration;

pub(super) const TRANSPORTS: &[(&str, Transport)] =
    &[("MeshOnly", Transport::MeshOnly), ("HttpsOnly", Transport::HttpsOnly), ("Permissive", Transport::Permissive)];

const PROFILES: &[(&str, CryptoProfile)] = &[("default", CryptoProfile::Default), ("fips", CryptoProfile::Fips)];

pub(super) fn mesh_config(spec: &Field) -> MeshConfig {
    spec.only(
        &[
            "trustDomain",
            "enforcement",
            "certificates",
            "cryptoProfile",
            "vipRanges",
            "dnsSuffixes",
            "defaults",
            "floor",
            "telemetry",
            "egress",
            "flows",
            "probes",
        ],
        &[],
    );
    let trust_domain = spec.get("trustDomain").and_then(|f| f.word().map(str::to_string));
    let mut mesh = MeshConfig { trust_domain, ..MeshConfig::default() };
    if let Some(enforce) = spec.get("enforcement").and_then(|f| f.choice(&[("Observe", false), ("Enforce", true)])) {
        mesh.enforce = enforce;
    }
    if let Some(certificates) = spec.get("certificates") {
        read_certificates(&certificates, &mut mesh);
    }
    if let Some(profile) = spec.get("cryptoProfile").and_then(|f| f.choice(PROFILES)) {
        mesh.crypto_profile = profile;
    }
    mesh.vip_ranges = spec.get("vipRanges").map(|f| ranges(&f)).unwrap_or_default();
    if let Some(suffixes) = spec.get("dnsSuffixes") {
        suffixes.items().iter().for_each(check_host);
        mesh.dns_suffixes = suffixes.words().into_iter().map(|s| s.trim_matches('.').to_ascii_lowercase()).collect();
    }
    if let Some(defaults) = spec.get("defaults") {
        mesh.defaults = read_defaults(&defaults);
    }
    if let Some(floor) = spec.get("floor") {
        floor.only(&["minTlsVersion", "transport", "egressTransport"], &[]);
        let egress = egress::transport(&floor, "egressTransport");
        mesh.floor = Floor { transport: transport(&floor), min_tls: min_tls(&floor), egress };
    }
    read_egress(spec, &mut mesh);
    if let Some(probes) = spec.get("probes") {
        probes.only(&["from"], &[]);
        // An empty list is a plain word: nobody is the platform.
        let from = probes.need("from").map(|f| f.items().iter().filter_map(cidr).collect());
        mesh.probe_sources = from.unwrap_or_default();
    }
    if let Some(flows) = spec.get("flows") {
        mesh.flows = super::standing::flows(&flows);
    }
    if let Some(telemetry) = spec.get("telemetry") {
        read_telemetry(&telemetry, &mut mesh);
    }
    mesh
}

fn read_egress(spec: &Field, mesh: &mut MeshConfig) {
    if let Some(egress) = spec.get("egress") {
        mesh.egress = egress::defaults(&egress);
    }
    // What is not written follows the floor.
    let written = |name| spec.get("egress").is_some_and(|egress| egress.get(name).is_some());
    if !written("transport") {
        mesh.egress.transport = mesh.egress.transport.max(mesh.floor.egress.unwrap_or(Transport::Permissive));
    }
    if !written("minTlsVersion") {
        mesh.egress.min_tls = mesh.egress.min_tls.max(mesh.floor.min_tls.unwrap_or(TlsVersion::V1_0));
    }
}

fn read_certificates(certificates: &Field, mesh: &mut MeshConfig) {
    certificates.only(&["leafLifetime", "maxStreamAge", "dnsNames", "dnsSuffixes"], &[]);
    if let Some(age) = certificates.get("maxStreamAge").and_then(|f| stream_age(&f)) {
        mesh.max_stream_age = age;
    }
    if let Some(lifetime) = certificates.get("leafLifetime").and_then(|f| lifetime(&f)) {
        mesh.leaf_lifetime = lifetime;
    }
    let names = certificates.get("dnsNames").and_then(|f| f.choice(&[("None", false), ("Services", true)]));
    mesh.service_names = names.unwrap_or(false);
    if let Some(suffixes) = certificates.get("dnsSuffixes") {
        suffixes.items().iter().for_each(check_host);
        mesh.leaf_suffixes = suffixes.words().into_iter().map(|s| s.trim_matches('.').to_ascii_lowercase()).collect();
    }
}

/// At least a minute, which leaves half of it for a renewal to be tried again; at most a month, because a certificate
/// outlives what it was issued for.
fn lifetime(field: &Field) -> Option<Duration> {
    let lifetime = field.duration()?;
    if lifetime < Duration::from_secs(60) {
        field.fault("is shorter than 60s: renewals start at half of it and need time to be tried again");
        return None;
    }
    if lifetime > Duration::from_secs(30 * 86_400) {
        field.fault("is longer than 30d: a certificate should not outlive its reason by months");
        return None;
    }
    Some(lifetime)
}

fn stream_age(field: &Field) -> Option<Duration> {
    let age = field.duration()?;
    if age > Duration::from_secs(30 * 86_400) {
        field.fault("is longer than 30d: a stream should not outlive for months the certificate that let it in");
        return None;
    }
    Some(age)
}

fn read_defaults(field: &Field) -> Defaults {
    field.only(&["transport", "minTlsVersion", "action"], &[]);
    let base = Defaults::default();
    Defaults {
        transport: transport(field).unwrap_or(base.transport),
        min_tls: min_tls(field).unwrap_or(base.min_tls),
        allow: field.get("action").and_then(|f| f.choice(&[("Allow", true), ("Deny", false)])).unwrap_or(base.allow),
    }
}

fn read_telemetry(field: &Field, mesh: &mut MeshConfig) {
    field.only(&["otlp", "sampling", "keep", "metricsEvery"], &[]);
    if let Some(otlp) = field.get("otlp")
        && let Some(text) = otlp.text()
    {
        let known = text.is_empty() || text.starts_with("http://") || text.starts_with("unix:/");
        if !known {
            otlp.fault(format!("`{text}` is neither `http://host:port` nor `unix:/path`"));
        }
        mesh.otlp = text.to_string();
    }
    if let Some(ratio) = field.get("sampling").and_then(|f| sampling(&f)) {
        mesh.sampling = ratio;
    }
    if let Some(keep) = field.get("keep") {
        read_keep(&keep, &mut mesh.keep);
    }
    mesh.metrics_every = metrics_every(field, mesh);
}

/// Where the counters go too: to the collector of the spans.
fn metrics_every(telemetry: &Field, mesh: &MeshConfig) -> Option<Duration> {
    let field = telemetry.get("metricsEvery")?;
    let every = field.duration()?;
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&every) {
        field.fault("has to be between 1s and 24h");
    }
    if mesh.otlp.is_empty() {
        field.fault("says how often, and `otlp` has to say where to");
    }
    Some(every)
}

pub(super) fn site(spec: &Field) -> Site {
    spec.only(&["ranges", "resolvers", "seenAs"], &[]);
    let ranges = spec.need("ranges").map(|f| ranges(&f)).unwrap_or_default();
    let resolvers = spec.get("resolvers").map(|f| f.items().iter().filter_map(address).collect());
    let seen_as = spec.get("seenAs").map(|f| self::ranges(&f)).unwrap_or_default();
    Site { ranges, resolvers: resolvers.unwrap_or_default(), seen_as }
}

pub(super) fn link(spec: &Field) -> Link {
    spec.only(&["sites", "paths"], &[]);
    let mut sites = [String::new(), String::new()];
    if let Some(field) = spec.need("sites") {
        match field.words().as_slice() {
            [a, b] if a == b => field.fault(format!("joins `{a}` with itself; name two different sites")),
            [a, b] => sites = [a.to_string(), b.to_string()],
            others => field.fault(format!("has {} sites; a link joins exactly two", others.len())),
        }
    }
    let paths = spec.get("paths").map(|f| f.items()).unwrap_or_default();
    for path in paths {
        path.only(&["name"], &[]);
        path.need("name").as_ref().and_then(Field::word);
    }
    Link { sites }
}

pub(super) fn workload(spec: &Field) -> Workload {
    spec.only(&["site", "addresses", "serviceAccount", "trustDomain", "dnsNames"], &[]);
    let site = spec.need("site").and_then(|f| f.word()).unwrap_or_default().to_string();
    let mut addresses: Vec<IpAddr> = Vec::new();
    if let Some(field) = spec.need("addresses") {
        let items = field.items();
        if field.is_empty_list() {
            field.fault("is empty; a workload is known by its addresses");
        }
        for item in items {
            let Some(ip) = address(&item) else { continue };
            if addresses.contains(&ip) {
                item.fault(format!("{ip} is named twice"));
            }
            addresses.push(ip);
        }
    }
    let account = spec.need("serviceAccount");
    if let Some(account) = &account {
        check_label(account);
    }
    let service_account = account.and_then(|f| f.text()).unwrap_or_default().to_string();
    let trust_domain = spec.get("trustDomain").and_then(|f| super::bundle::name(&f)).map(|name| name.to_string());
    let names = spec.get("dnsNames").map(|f| f.items()).unwrap_or_default();
    names.iter().for_each(check_host);
    let dns_names = names.iter().filter_map(|f| f.word()).map(str::to_ascii_lowercase).collect();
    Workload { site, addresses, service_account, trust_domain, dns_names }
}

pub(super) fn match_labels(field: &Field) -> Labels {
    field.only(&["matchLabels"], &[]);
    let labels = field.need("matchLabels").map(|f| super::labels(&f)).unwrap_or_default();
    if labels.is_empty() {
        field.fault("selects by no label; leave `workloads` out to mean the whole namespace");
    }
    labels
}

pub(super) fn traffic_policy(spec: &Field) -> TrafficPolicy {
    const OPTIONS: [&str; 8] =
        ["connect", "sourceAddress", "proxyProtocol", "headerNames", "timeouts", "tls", "healthCheck", "telemetry"];
    spec.only(&[&["services"], &OPTIONS[..]].concat(), &[]);
    if OPTIONS.iter().all(|name| spec.get(name).is_none()) {
        spec.fault(format!("says nothing; set one of {}", OPTIONS.join(", ")));
    }
    TrafficPolicy {
        services: spec.get("services").map(|f| not_empty(&f)).unwrap_or_default(),
        connect: spec
            .get("connect")
            .and_then(|f| f.choice(&[("early", Connect::Early), ("confirm", Connect::Confirm)])),
        source_address: spec
            .get("sourceAddress")
            .and_then(|f| f.choice(&[("preserve", SourceAddress::Preserve), ("proxy", SourceAddress::Proxy)])),
        proxy_protocol: spec
            .get("proxyProtocol")
            .and_then(|f| f.choice(&[("none", ProxyProtocol::None), ("v2", ProxyProtocol::V2)])),
        header_names: spec
            .get("headerNames")
            .and_then(|f| f.choice(&[("TitleCase", HeaderNames::TitleCase), ("Preserve", HeaderNames::Preserve)])),
        tls: spec.get("tls").map(|f| super::origination::read(&f)),
        request_timeout: spec.get("timeouts").and_then(|f| request_timeout(&f)),
        health_check: spec.get("healthCheck").and_then(|f| super::health::read(&f)),
        sampling_millionths: spec.get("telemetry").and_then(|f| sampling_of_service(&f)),
        b3: spec.get("telemetry").and_then(|f| {
            f.get("b3").and_then(|f| f.choice(&[("single", B3Headers::Single), ("multi", B3Headers::Multi)]))
        }),
    }
}

fn sampling_of_service(telemetry: &Field) -> Option<u32> {
    telemetry.only(&["sampling", "b3"], &[]);
    let ratio = sampling(&telemetry.get("sampling")?)?;
    Some((ratio * f64::from(MILLION)).round() as u32)
}

fn sampling(field: &Field) -> Option<f64> {
    let ratio = field.number()?;
    if !(0.0..=1.0).contains(&ratio) {
        field.fault(format!("{ratio} is not between 0 and 1"));
        return None;
    }
    Some(ratio)
}

fn read_keep(field: &Field, keep: &mut KeepSpans) {
    field.only(&["errors", "denied", "slowerThan"], &[]);
    keep.errors = field.get("errors").and_then(|f| f.flag()).unwrap_or(keep.errors);
    keep.denied = field.get("denied").and_then(|f| f.flag()).unwrap_or(keep.denied);
    if let Some(slower) = field.get("slowerThan") {
        keep.slower_than = slower.duration();
        if keep.slower_than.is_some_and(|limit| limit.is_zero() || limit > Duration::from_secs(86_400)) {
            slower.fault("has to be between 1ms and 24h".to_owned());
        }
    }
}

fn request_timeout(timeouts: &Field) -> Option<Duration> {
    timeouts.only(&["request"], &[]);
    let request = timeouts.need("request")?;
    let timeout = request.duration()?;
    if timeout < Duration::from_secs(1) || timeout > MAX_REQUEST_TIMEOUT {
        request.fault("has to be between 1s and 24h");
        return None;
    }
    Some(timeout)
}

pub(super) fn not_empty(field: &Field) -> Vec<String> {
    let words: Vec<String> = field.words().into_iter().map(str::to_string).collect();
    if field.is_empty_list() {
        field.fault("is an empty list; leave it out to mean the whole namespace");
    }
    words
}

pub(super) fn transport(parent: &Field) -> Option<Transport> {
    parent.get("transport")?.choice(TRANSPORTS)
}

/// `"1.2"`. Bare 1.2 is a number in YAML; what it means is plain, so it is taken.
pub(super) fn min_tls(parent: &Field) -> Option<TlsVersion> {
    const VERSIONS: &[(&str, TlsVersion)] =
        &[("1.0", TlsVersion::V1_0), ("1.1", TlsVersion::V1_1), ("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let field = parent.get("minTlsVersion")?;
    field.note(Form::Number);
    VERSIONS.iter().for_each(|(word, _)| field.note(Form::Word((*word).to_string())));
    if let super::node::Value::Float(number) = field.node().value {
        let exact = |name: &str| name.parse::<f64>().is_ok_and(|version| version.to_bits() == number.to_bits());
        let found = VERSIONS.iter().find(|(name, _)| exact(name));
        return found.map(|(_, version)| *version).or_else(|| field.choice(VERSIONS));
    }
    field.choice(VERSIONS)
}

fn ranges(field: &Field) -> Vec<IpNet> {
    let items = field.items();
    if field.is_empty_list() {
        field.fault("is empty; name at least one range, as `10.10.0.0/16`");
    }
    items.iter().filter_map(cidr).collect()
}

/// A range whose host bits are zero: `10.10.0.1/16` is nearly always a slip for `/32` or `10.10.0.0/16`.
pub(super) fn cidr(field: &Field) -> Option<IpNet> {
    let net: IpNet = field.parsed("an address range, as `10.10.0.0/16`")?;
    if net.trunc() != net {
        field.fault(format!("`{net}` has bits beyond its prefix; did you mean `{}`?", net.trunc()));
        return None;
    }
    if let IpNet::V6(mapped) = net
        && let (Some(length), Some(ip)) = (mapped.prefix_len().checked_sub(96), mapped.addr().to_ipv4_mapped())
    {
        field.fault(format!(
            "`{net}` holds mapped addresses, and addresses are compared unmapped; write `{ip}/{length}`"
        ));
        return None;
    }
    Some(net)
}

/// An address that a peer can be reached at.
pub(super) fn address(field: &Field) -> Option<IpAddr> {
    let ip: IpAddr = field.parsed("an IP address")?;
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.to_canonical() != ip {
        field.fault(format!("{ip} is a loopback, unspecified, multicast or mapped address; no peer can reach it"));
        return None;
    }
    Some(ip)
}
