//! A control plane that is newer than the proxy: what it says that cannot be understood is refused and nacked, by the real
//! process, and everything beside it works. The messages are those that a later version could send.

mod control;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use isthmus_proto::discovery::v1 as wire;
use isthmus_world::apps::{self, Fetched};
use isthmus_world::{Command, Process, World};

use self::control::{Future, resource};
use crate::require;

/// Of the proxy's own workload, and its app's ports.
const WEB: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 10);
const ORDERS: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 10);
const DEADLINE: Duration = Duration::from_secs(20);
/// Nobody's feature.
const FUTURE: &str = "clairvoyance/v1";

/// What is said of each port; whether this build can read it.
type Said = (u16, bool, fn(&mut wire::InboundPort));

const PORTS: &[Said] = &[
    (8080, true, |_| ()),
    (8081, false, |port| policy(port).requires.push(FUTURE.to_owned())),
    // An allow that is narrower than this build can know: read by halves it would widen.
    (8082, false, |port| policy(port).allow.push(rule())),
    (8083, false, |port| policy(port).deny.push(rule())),
    (8084, false, |port| policy(port).transport = 99),
    (8085, false, |port| policy(port).min_tls_version = 99),
    (8086, false, |port| policy(port).default_action = 99),
    (8087, false, |port| port.protocol = 99),
    (8088, false, |port| port.standing = Some(wire::Standing { enforcement: 99, bypass_until_unix_ms: 0 })),
    (8089, true, |_| ()),
];

fn policy(port: &mut wire::InboundPort) -> &mut wire::PortPolicy {
    port.policy.as_mut().expect("each port has one")
}

fn rule() -> wire::Rule {
    wire::Rule { policy: "shop/future".to_owned(), requires: vec![FUTURE.to_owned()], ..Default::default() }
}

fn inbound(understood: bool) -> wire::resource::Body {
    let open = || wire::PortPolicy {
        transport: wire::Transport::Permissive.into(),
        min_tls_version: wire::TlsVersion::TlsVersion12.into(),
        default_action: wire::Action::Allow.into(),
        ..Default::default()
    };
    let port = |(port, _, change): &Said| {
        let mut said = wire::InboundPort {
            port: u32::from(*port),
            protocol: wire::AppProtocol::Http.into(),
            policy: Some(open()),
            ..Default::default()
        };
        if !understood {
            change(&mut said);
        }
        said
    };
    wire::resource::Body::Inbound(wire::Inbound {
        workload: "shop/web".to_owned(),
        addresses: vec![WEB.to_string()],
        ports: PORTS.iter().map(port).collect(),
        default_policy: Some(open()),
        ..Default::default()
    })
}

fn mesh(control: &Future) -> wire::resource::Body {
    let site = |name: &str, range: &str| wire::Site {
        name: name.to_owned(),
        ranges: vec![range.to_owned()],
        ..Default::default()
    };
    wire::resource::Body::Mesh(wire::Mesh {
        trust_domain: "shop.example".to_owned(),
        enforcement: wire::Enforcement::Enforce.into(),
        site: "azure-eastus".to_owned(),
        sites: vec![site("azure-eastus", "10.10.0.0/16"), site("dc1", "10.20.0.0/16")],
        roots_der: control.roots(),
        ..Default::default()
    })
}

fn egress() -> wire::resource::Body {
    wire::resource::Body::Egress(wire::Egress {
        enforced: Some(wire::EgressDefault {
            action: wire::Action::Allow.into(),
            transport: wire::Transport::Permissive.into(),
            min_tls_version: wire::TlsVersion::TlsVersion12.into(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// An app without sidecar, called by its own address.
fn address(ip: Ipv4Addr, requires: &[&str]) -> wire::Resource {
    let endpoint = wire::Endpoint { site: "dc1".to_owned(), ip: ip.to_string(), ..Default::default() };
    let body = wire::resource::Body::Address(wire::Address {
        ip: ip.to_string(),
        target: Some(wire::address::Target::Workload(wire::Workload { endpoint: Some(endpoint), ports: Vec::new() })),
    });
    resource(wire::ResourceKind::Address, &ip.to_string(), requires, body)
}

/// Kinds of resources, and what is required of the whole.
fn delta(control: &Future, version: u64, inbound: wire::resource::Body, future: &[&str]) -> wire::Delta {
    use wire::ResourceKind as Kind;
    wire::Delta {
        version,
        upserts: vec![
            resource(Kind::Mesh, "", &[], mesh(control)),
            resource(Kind::Inbound, "", &[], inbound),
            resource(Kind::Egress, "", future, egress()),
            address(ORDERS, future),
        ],
        first_sync_complete: true,
        ..Default::default()
    }
}

#[expect(clippy::too_many_lines, reason = "one story, step by step")]
pub(crate) fn refused_and_nacked() -> Result<(), String> {
    let mut world = World::two_sites().stranger().build().map_err(|e| e.to_string())?;
    let outside = Ipv4Addr::new(203, 0, 113, 10);
    let right = world.add_host(isthmus_world::CLOUD, "right", outside).map_err(|e| e.to_string())?;
    let mut control = Future::start(world.host("control"))?;
    let web = world.host("web").clone();
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let app = |host: &isthmus_world::Host, port| apps::http_server(host, any(port)).map_err(|e| e.to_string());
    let servers = PORTS.iter().map(|(port, ..)| app(&web, *port)).collect::<Result<Vec<_>, _>>()?;
    let (orders, far) = (app(world.host("orders"), 8080)?, app(&right, 80)?);
    let proxy = start(&world, &control)?;
    let session = control.session()?;

    // What this build knows, first: everything passes.
    session.say(delta(&control, 1, inbound(true), &[]))?;
    session.acked(1)?;
    let ask = |from: &str, url: &str| apps::curl(world.host(from), &[url], DEADLINE).map_err(|e| e.to_string());
    let of_port = |port: u16| format!("http://{WEB}:{port}/");
    for (port, ..) in PORTS {
        passes(&ask("stranger", &of_port(*port))?)?;
    }
    let (there, out) = (format!("http://{ORDERS}:8080/"), format!("http://{outside}/"));
    session.answers(address(ORDERS, &[]), 2);
    passes(&ask("web", &there)?).map_err(|why| format!("orders: {why}; {}", proxy.last_lines()))?;
    passes(&ask("web", &out)?)?;

    // The same from a version to come: refused, port by port and place by place, and nobody behind it hears of it.
    session.say(delta(&control, 10, inbound(false), &[FUTURE]))?;
    let problems = session.nacked(10)?;
    for (port, understood, _) in PORTS {
        let before = servers.iter().map(apps::Server::requests).sum::<u64>();
        let got = ask("stranger", &of_port(*port))?;
        if *understood {
            passes(&got)?;
            continue;
        }
        // Of a protocol that nobody here knows no answer can be given: RST.
        if *port != 8087 || got.error.is_none() {
            is_refused(&got).map_err(|why| format!("port {port}: {why}"))?;
        }
        require(servers.iter().map(apps::Server::requests).sum::<u64>() == before, || format!("{port} was reached"))?;
        let named = problems.iter().any(|problem| problem.contains(&port.to_string()));
        require(named, || format!("port {port} is not in the nack: {problems:?}"))?;
    }
    let reached = (orders.requests(), far.requests());
    is_refused(&ask("web", &there)?).map_err(|why| format!("an address: {why}"))?;
    is_refused(&ask("web", &out)?).map_err(|why| format!("egress: {why}"))?;
    require(reached == (orders.requests(), far.requests()), || "somebody was reached".to_owned())?;
    require(problems.iter().any(|problem| problem.contains(FUTURE)), || format!("{problems:?}"))?;

    // What the mesh's floor raises (transport and the oldest TLS), of what leaves: a value that nobody here knows.
    for (version, change) in [
        (11, (|e: &mut wire::EgressDefault| e.transport = 99) as fn(&mut wire::EgressDefault)),
        (12, |e| e.min_tls_version = 99),
    ] {
        let mut body = egress();
        if let wire::resource::Body::Egress(wire::Egress { enforced: Some(enforced), .. }) = &mut body {
            change(enforced);
        }
        let mut said = delta(&control, version, inbound(true), &[]);
        said.upserts[2] = resource(wire::ResourceKind::Egress, "", &[], body);
        session.say(said)?;
        let problems = session.nacked(version)?;
        require(problems.iter().any(|problem| problem.contains("99")), || format!("{problems:?}"))?;
        let reached = far.requests();
        is_refused(&ask("web", &out)?).map_err(|why| format!("egress of version {version}: {why}"))?;
        require(reached == far.requests(), || "somebody outside was reached".to_owned())?;
        passes(&ask("stranger", &of_port(8080))?)?;
    }

    // And back: an older control plane, or a newer proxy.
    session.say(delta(&control, 13, inbound(true), &[]))?;
    session.acked(13)?;
    for (port, ..) in PORTS {
        passes(&ask("stranger", &of_port(*port))?)?;
    }
    passes(&ask("web", &there)?)?;
    passes(&ask("web", &out)?)
}

fn start(world: &World, control: &Future) -> Result<Process, String> {
    let (host, dir) = (world.host("web"), world.files().join("web"));
    let told = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&dir).map_err(told)?;
    let token = dir.join("token");
    std::fs::write(&token, control.token()).map_err(told)?;
    let text = format!(
        "joinTokenFile: {}\nworkers: 1\ncapture: {{ mode: nftables, exempt: {{ mark: 1337 }}, inbound: all }}\n\
         admin: {{ socket: {} }}\n",
        token.display(),
        dir.join("proxy.sock").display(),
    );
    let config = dir.join("proxy.yaml");
    std::fs::write(&config, text).map_err(told)?;
    let command = Command::new(env!("CARGO_BIN_EXE_isthmus")).args(["proxy", "--config"]).arg(&config).named("proxy");
    host.spawn(command).map_err(|e| e.to_string())
}

fn passes(got: &Fetched) -> Result<(), String> {
    require(got.status == 200, || format!("{got:?}"))
}

fn is_refused(got: &Fetched) -> Result<(), String> {
    let word = got.header("isthmus-denied");
    require(got.status >= 400 && word == "unknown-feature", || format!("{got:?}"))
}
