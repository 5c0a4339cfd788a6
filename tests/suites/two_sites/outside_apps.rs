//! Databases and servers outside of the mesh, in their own languages: what an EgressPolicy lets leave, and what it keeps.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use isthmus_world::apps::{self, Daemon, Postgres, PostgresSettings, SelfSigned};
use isthmus_world::mesh::Mesh;
use isthmus_world::{Command, find};

use crate::egress::{DEADLINE, Outside, RIGHT, policy, refusals};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("databases_outside_are_reached_as_egress_policies_say", databases),
    ("a_name_outside_whose_first_address_is_dead_is_reached_by_the_next", second_address),
];

const WRONG: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

pub(crate) fn can_run() -> bool {
    find::or_skip(&["curl", "initdb", "postgres", "psql", "redis-server", "redis-cli"], "databases outside").is_some()
}

fn databases(mesh: &mut Mesh) -> Result<(), String> {
    let right = mesh.world_mut().add_host(isthmus_world::CLOUD, "right", RIGHT).map_err(|e| e.to_string())?;
    mesh.world().host("web").set_hosts(&[(RIGHT.into(), "db.example")]).map_err(|e| e.to_string())?;
    let certificate = SelfSigned::new(&["db.example"]).map_err(|e| e.to_string())?;
    let settings = PostgresSettings { certificate: Some(&certificate), ..Default::default() };
    let _with_tls = Postgres::start_with(&right, 5432, &settings).map_err(|e| e.to_string())?;
    let _without = Postgres::start(&right, 5433).map_err(|e| e.to_string())?;
    let _redis = Daemon::redis(&right, 6379).map_err(|e| e.to_string())?;
    let output = |command: Command| {
        let done = mesh.world().host("web").output(command, DEADLINE).map_err(|e| e.to_string())?;
        Ok::<_, String>(done.stdout.trim().to_owned())
    };
    let psql = |port: u16, mode: &str| {
        let connection =
            format!("host=db.example port={port} user=postgres dbname=postgres sslmode={mode} gssencmode=disable");
        let statement = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let command = Command::new("psql").args(["-X", "-A", "-t", "-q", "-d", &connection, "-c", statement]);
        output(command.env("PGCONNECT_TIMEOUT", "10"))
    };
    let ping = || output(Command::new("redis-cli").args(["-h", "db.example", "-p", "6379", "ping"]));
    type Ask<'a> = (&'a str, &'a dyn Fn() -> Result<String, String>, &'a str);
    let asks: [Ask<'_>; 4] = [
        ("PostgreSQL with TLS", &|| psql(5432, "require"), "t"),
        ("PostgreSQL without TLS", &|| psql(5432, "disable"), "f"),
        ("a PostgreSQL that has no TLS", &|| psql(5433, "prefer"), "f"),
        ("Redis", &ping, "PONG"),
    ];
    let range = "  allow:\n    - { cidrs: [203.0.113.10/32], ports: [5432, 5433, 6379] }\n";
    let hosts = "  allow:\n    - { hosts: [db.example] }\n";
    // Neither of them says a name before it is answered: rules for names cannot allow them.
    for (spec, words) in [
        (String::new(), ["", "", "", ""]),
        (range.to_owned(), ["", "", "", ""]),
        (format!("  transport: HttpsOnly\n{range}"), ["", "plaintext", "plaintext", "plaintext"]),
        (hosts.to_owned(), ["not-allowed"; 4]),
        ("  deny:\n    - { ports: [5432, 5433, 6379] }\n".to_owned(), ["denied-by-rule"; 4]),
    ] {
        if !spec.is_empty() {
            mesh.apply(&policy(&spec))?;
        }
        for ((what, ask, answer), word) in asks.iter().zip(words) {
            let before = if word.is_empty() { 0.0 } else { refusals(mesh, word)? };
            let said = ask()?;
            if word.is_empty() {
                require(said == *answer, || format!("{spec}: {what}: {said:?}"))?;
            } else {
                require(said.is_empty(), || format!("{spec}: {what} is answered: {said:?}"))?;
                require(refusals(mesh, word)? > before, || format!("{spec}: {what} is not counted as {word}"))?;
            }
        }
    }
    Ok(())
}

/// HTTP and TLS by a rule for names, whose requests and connections we send by ourselves.
fn second_address(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    // At the first address nobody listens on these ports.
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let http = apps::http_server(&outside.host, any(8090)).map_err(|e| e.to_string())?;
    let https = apps::https_server(&outside.host, any(8443), &outside.certificate).map_err(|e| e.to_string())?;
    let names: Vec<(IpAddr, &str)> = vec![(WRONG.into(), "twin.example"), (RIGHT.into(), "twin.example")];
    mesh.world().host("web").set_hosts(&names).map_err(|e| e.to_string())?;
    mesh.apply(&policy("  allow:\n    - { hosts: [twin.example] }\n"))?;
    let resolve = |port: u16| format!("twin.example:{port}:{WRONG}");
    for (url, port) in [("http://twin.example:8090/", 8090), ("https://twin.example:8443/", 8443)] {
        for _ in 0..2 {
            let arguments = ["--insecure", "--resolve", &resolve(port), url];
            let got = apps::curl(mesh.world().host("web"), &arguments, DEADLINE).map_err(|e| e.to_string())?;
            require(got.status == 200, || format!("{url}: {got:?}"))?;
        }
    }
    require(http.requests() == 2 && https.requests() == 2, || format!("{} {}", http.requests(), https.requests()))?;
    // Nobody at either: the caller is told, and not kept.
    let arguments = ["--resolve", &resolve(8091), "http://twin.example:8091/"];
    let got = apps::curl(mesh.world().host("web"), &arguments, DEADLINE).map_err(|e| e.to_string())?;
    require(got.status == 502, || format!("{got:?}"))
}
