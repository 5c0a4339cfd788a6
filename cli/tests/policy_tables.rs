//! `tests/policy/*.yaml`: policies as operators write them, requests, and the word that is expected. Each policy takes the
//! whole way: validation, index, the wire, a proxy's snapshot, its engine.
//!
//! A file is a row of YAML documents: resources, then the `table` of what they decide beside those of `mesh.yaml`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_certs::{SpiffeId, TrustDomain};
use isthmus_control::index::{Index, Trust, View, Vips, Wanted, diff};
use isthmus_control::validate::cross::{self, Set};
use isthmus_control::validate::{self, Problem};
use isthmus_proto::discovery::v1 as wire;
use isthmus_proto::model::{Delta, TlsVersion};
use isthmus_proxy::state::policy::path::normalise;
use isthmus_proxy::state::policy::{self, Arrived, Facts, HttpFacts, explain};
use isthmus_proxy::state::{AppProtocol, Mesh};
use serde::Deserialize;

const TRUST_DOMAIN: &str = "shop.example";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    table: String,
    cases: Vec<Case>,
}

/// What is left out: to shop/orders, port 8080, over the mesh, `GET /` of host orders.shop, on 2026-11-22.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// `<namespace>/<workload>`, an identity, or `nobody`.
    from: String,
    address: Option<String>,
    to: Option<String>,
    port: Option<u16>,
    /// `METHOD path`, or `none`: bytes.
    request: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<String>,
    /// `mesh`, `plain`, `tls1.0` to `tls1.3`.
    over: Option<String>,
    at: Option<String>,
    /// `allowed`, or the word of the refusal.
    expect: String,
    /// The word that policies in Audit would have refused with.
    audit: Option<String>,
    /// The policy that decided.
    by: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/policy")
}

#[test]
fn every_table_says_what_the_proxy_decides() {
    let mesh = fs::read_to_string(folder().join("mesh.yaml")).unwrap();
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("mesh.yaml"));
    files.sort();
    let (mut wrong, mut decisions, mut mended) = (Vec::new(), 0, 0);
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut resources = Vec::new();
        for document in fs::read_to_string(file).unwrap().split("\n---\n") {
            if !document.lines().any(|line| line.starts_with("table:")) {
                resources.push(document.to_owned());
                continue;
            }
            let table: Table = serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{name}: {e}\n{document}"));
            let about = format!("{name}: {}", table.table);
            let policies = std::mem::take(&mut resources).join("\n---\n");
            let world = World::of(&mesh, &policies, &about);
            for case in &table.cases {
                decisions += 1;
                let found = world.decide(case);
                let by = case.by.is_none() || case.by == found.by;
                if found.word != case.expect || found.audit != case.audit || !by {
                    wrong.push(format!("{about}\n  {case:?}\n  is {found:?}"));
                }
                if let Some(yaml) = &found.would_allow {
                    mended += 1;
                    match World::try_of(&mesh, &format!("{policies}\n---\n{yaml}"), &about)
                        .map(|mended| mended.decide(case))
                    {
                        Ok(now) if now.word == "allowed" => {}
                        now => wrong.push(format!("{about}\n  {case:?}\n  is {now:?} in spite of\n{yaml}")),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {decisions} decisions differ\n{}", wrong.len(), wrong.join("\n"));
    assert!(decisions > 300, "{decisions} decisions in {} files", files.len());
    // What `explain` says would allow it applies cleanly beside what is there, and allows it.
    assert!(mended > 100, "{mended} refusals came with a policy that would allow them");
    println!("{decisions} decisions in {} files, {mended} of them refused and mended", files.len());
}

struct World {
    set: Set,
    index: Index,
}

#[derive(Debug)]
struct Found {
    word: String,
    audit: Option<String>,
    by: Option<String>,
    /// The policy that is said to let it through.
    would_allow: Option<String>,
}

impl World {
    fn of(mesh: &str, policies: &str, about: &str) -> World {
        World::try_of(mesh, policies, about).unwrap_or_else(|why| panic!("{about}: {why}"))
    }

    fn try_of(mesh: &str, policies: &str, about: &str) -> Result<World, String> {
        let (mut parsed, mut problems) = validate::parse("mesh.yaml", mesh);
        let more = validate::parse(about, policies);
        parsed.extend(more.0);
        problems.extend(more.1);
        if !problems.is_empty() {
            return Err(problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"));
        }
        let set: Set = parsed.into_iter().map(|parsed| Arc::new(parsed.resource)).collect();
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
        let faults = cross::check(&set, &trust_domain).faults;
        if !faults.is_empty() {
            return Err(format!("{faults:?}"));
        }
        let trust = Trust {
            trust_domain,
            roots_der: vec![vec![1]],
            revocations: Default::default(),
            issuing: Default::default(),
        };
        let index = Index::build(Wanted { set: &set, vips: &Vips::default(), trust: &trust });
        Ok(World { set, index })
    }

    /// What the proxy of a workload holds, after the way over the wire.
    fn snapshot(&self, workload: &str) -> Mesh {
        let view = self.index.view(workload, &BTreeSet::new()).unwrap_or_else(|| panic!("no workload {workload}"));
        let (upserts, _) = diff(&View::default(), &view);
        let upserts = upserts.iter().map(|resource| (**resource).clone()).collect();
        let delta =
            wire::Delta { version: 1, upserts, removals: Vec::new(), first_sync_complete: true, signature: None };
        let (delta, problems) = Delta::read(delta);
        assert_eq!(problems, [], "a proxy of this build understands all of it");
        Mesh::unknown().apply(delta)
    }

    fn decide(&self, case: &Case) -> Found {
        let mesh = self.snapshot(case.to.as_deref().unwrap_or("shop/orders"));
        let number = case.port.unwrap_or(8080);
        let port = mesh.inbound_port(number);
        let (peer, address) = self.caller(case);
        let headers = headers(case);
        let request = request(case);
        let http = request.as_ref().map(|(method, path)| HttpFacts {
            host: match case.host.as_deref() {
                Some("none") => None,
                host => host.or(Some("orders.shop")),
            },
            method,
            path,
            headers: &headers,
        });
        let site = mesh.site_of(address).map(|site| site.name.as_str());
        let at: jiff::Timestamp = case.at.as_deref().unwrap_or("2026-11-22T12:00:00Z").parse().unwrap();
        let now_ms = at.as_millisecond();
        let foreign = peer.as_ref().is_some_and(|id| id.trust_domain().as_str() != TRUST_DOMAIN);
        let behind = mesh.behind(peer.as_ref(), address);
        let facts = Facts {
            peer: peer.as_ref(),
            foreign,
            peer_ip: address,
            peer_site: site,
            behind,
            port: number,
            now_ms,
            http,
        };
        let declared = port.protocol == AppProtocol::Tls;
        if let Err(reason) = policy::check_transport(&port.policy, arrived(case, declared)) {
            return Found { word: reason.word().to_owned(), audit: None, by: None, would_allow: None };
        }
        let decision = policy::decide(&port.policy, &facts);
        let service = port.services.first();
        Found {
            would_allow: service.and_then(|service| explain::yaml_that_would_allow(&decision, &facts, service)),
            word: decision.reason.map_or("allowed", |reason| reason.word()).to_owned(),
            audit: decision.audit.map(|finding| finding.reason.word().to_owned()),
            by: decision.policy.map(str::to_owned),
        }
    }

    fn caller(&self, case: &Case) -> (Option<SpiffeId>, IpAddr) {
        let address = |default: &str| case.address.as_deref().unwrap_or(default).parse().unwrap();
        if case.from == "nobody" {
            return (None, address("10.20.7.7"));
        }
        if let Ok(id) = SpiffeId::parse(&case.from) {
            return (Some(id), address("10.20.7.7"));
        }
        let id = self.index.identity_of(&case.from).unwrap_or_else(|| panic!("no workload {}", case.from));
        let own = self.set.of_kind("Workload", None).find(|resource| resource.key.qualified() == case.from).unwrap();
        let own = own.json.pointer("/spec/addresses/0").unwrap().as_str().unwrap();
        (Some(id.clone()), address(own))
    }
}

/// The path as a proxy hands it to the app and to its engine.
fn request(case: &Case) -> Option<(String, String)> {
    match case.request.as_deref().unwrap_or("GET /") {
        "none" => None,
        text => {
            let (method, target) = text.split_once(' ').unwrap();
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
            let path = normalise(path).map_or(path.to_owned(), |path| path.into_owned());
            Some((method.to_owned(), query.map_or(path.clone(), |query| format!("{path}?{query}"))))
        }
    }
}

fn headers(case: &Case) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in &case.headers {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
    }
    headers
}

fn arrived(case: &Case, declared: bool) -> Arrived {
    let version = match case.over.as_deref().unwrap_or("mesh") {
        "mesh" => return Arrived::Mesh,
        "plain" => return Arrived::Plain,
        "tls1.0" => TlsVersion::V1_0,
        "tls1.1" => TlsVersion::V1_1,
        "tls1.2" => TlsVersion::V1_2,
        "tls1.3" => TlsVersion::V1_3,
        other => panic!("over: {other}"),
    };
    Arrived::AppTls { version: Some(version), declared }
}
