//! PostgreSQL and libpq: TLS that begins after a question, several hosts in one connection string, rules by address.

use std::fs;

use isthmus_world::Command;

use crate::shop::{NAME, Shop};
use crate::{Case, require};

const PROGRAMS: &[&str] = &["initdb", "postgres", "psql"];

pub(crate) const CASES: &[Case] = &[
    ("postgres_without_tls", PROGRAMS, plain),
    ("postgres_with_sslmode_require_is_encrypted_to_the_server", PROGRAMS, ssl_required),
    ("postgres_with_sslmode_prefer_takes_what_the_server_has", PROGRAMS, ssl_preferred),
    ("postgres_on_a_port_that_says_nothing", PROGRAMS, detected),
    ("postgres_is_refused_for_who_is_not_allowed", PROGRAMS, refused),
    ("postgres_large_results_come_whole", PROGRAMS, large_result),
    ("postgres_pgbench_has_no_failed_transaction", &["initdb", "postgres", "psql", "pgbench"], pgbench),
    ("postgres_libpq_goes_on_to_the_host_that_takes_writes", PROGRAMS, failover_by_role),
    ("postgres_libpq_goes_on_when_a_host_is_gone", PROGRAMS, failover_by_connecting),
    ("postgres_rules_by_source_address_see_the_caller", PROGRAMS, by_address),
];

/// psql on `from`; what it prints, without headings.
fn psql(shop: &Shop, from: &str, connection: &str, statement: &str) -> Result<String, String> {
    let command = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", connection, "-c", statement])
        .env("PGCONNECT_TIMEOUT", "10");
    shop.succeed(from, command).map(|said| said.trim().to_owned())
}

fn connection(port: u16, sslmode: &str) -> String {
    format!("host={NAME} port={port} user=postgres dbname=postgres sslmode={sslmode}")
}

/// Whether this session is encrypted as far as the server knows, and by what.
const ENCRYPTED: &str = "select ssl, coalesce(version, 'none') from pg_stat_ssl where pid = pg_backend_pid()";

fn plain(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let said = shop.crossing(1, || psql(shop, "web", &connection(5432, "disable"), ENCRYPTED))?;
    require(said == "f|none", || said.clone())
}

fn ssl_required(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let said = shop.crossing(1, || psql(shop, "web", &connection(5432, "require"), ENCRYPTED))?;
    require(said == "t|TLSv1.3", || said.clone())
}

fn ssl_preferred(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    shop.standby()?;
    let said = shop.crossing(1, || psql(shop, "web", &connection(5432, "prefer"), ENCRYPTED))?;
    require(said == "t|TLSv1.3", || format!("a server with TLS: {said}"))?;
    // The server without TLS says N, and the client goes on in plain on the same connection.
    let said = shop.crossing(1, || psql(shop, "web", &connection(5433, "prefer"), ENCRYPTED))?;
    require(said == "f|none", || format!("a server without TLS: {said}"))
}

fn detected(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    for (sslmode, expected) in [("require", "t|TLSv1.3"), ("disable", "f|none")] {
        let said = shop.crossing(1, || psql(shop, "web", &connection(5435, sslmode), ENCRYPTED))?;
        require(said == expected, || format!("{sslmode}: {said}"))?;
    }
    Ok(())
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let failed = shop.refusing(|| Ok(psql(shop, "batch", &connection(5432, "prefer"), "select 1")))?;
    require(failed.is_err(), || format!("batch got {failed:?}"))
}

fn large_result(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let file = shop.file("result");
    let statement = "select string_agg(md5(n::text), '') from generate_series(1, 500000) n";
    let command = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-d", &connection(5432, "disable"), "-c", statement, "-o"])
        .arg(&file);
    shop.crossing(1, || shop.succeed("web", command))?;
    let result = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    require(result.trim_end().len() == 500_000 * 32, || format!("{} bytes came", result.len()))?;
    let sum = psql(shop, "web", &connection(5432, "disable"), &format!("select md5(({statement}))"))?;
    let local = Command::new("sh").args(["-c", "tr -d '\\n' < \"$0\" | md5sum"]).arg(&file);
    let local = shop.succeed("web", local)?;
    require(local.starts_with(&sum), || format!("the server's checksum is {sum}, of what came {local}"))
}

fn pgbench(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let bench = |arguments: &[&str]| {
        let command = Command::new("pgbench").args(["-h", NAME, "-p", "5432", "-U", "postgres"]).args(arguments);
        let command = command.env("PGSSLMODE", "disable").arg("postgres");
        shop.output("web", command).and_then(|done| match done.status.success() {
            true => Ok(done.stdout),
            false => Err(format!("pgbench {arguments:?}: {}{}", done.stdout, done.stderr)),
        })
    };
    shop.crossing(1, || bench(&["--initialize", "--quiet", "--scale", "1"]))?;
    for protocol in ["simple", "prepared"] {
        let said = shop.crossing(4, || bench(&["-c", "4", "-j", "1", "-t", "50", "-M", protocol]))?;
        let all = said.contains("transactions actually processed: 200/200");
        require(all && said.contains("failed transactions: 0 "), || said.clone())?;
    }
    // A new connection for each transaction.
    let said = shop.crossing(40, || bench(&["-c", "2", "-t", "20", "--connect", "--select-only"]))?;
    require(said.contains("transactions actually processed: 40/40"), || said.clone())
}

const HOSTS: &str = "user=postgres dbname=postgres sslmode=prefer target_session_attrs=read-write";
const PORT: &str = "select current_setting('port')";

fn failover_by_role(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    shop.standby()?;
    let both = format!("host={NAME},{NAME} port=5433,5432 {HOSTS}");
    let said = shop.crossing(2, || psql(shop, "web", &both, PORT))?;
    require(said == "5432", || format!("it stayed at the standby: {said}"))
}

/// libpq takes the next host when it cannot connect, and gives up when a connection breaks that it had: so it must not
/// be told that it is connected before the server's own side has said so.
fn failover_by_connecting(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let both = format!("host={NAME},{NAME} port=5434,5432 {HOSTS}");
    let said = shop.crossing(1, || psql(shop, "web", &both, PORT))?;
    require(said == "5432", || said.clone())
}

/// The server's own rules let `alice` in from `web`'s address only.
fn by_address(shop: &Shop) -> Result<(), String> {
    shop.postgres()?;
    let as_alice = connection(5432, "disable").replace("user=postgres", "user=alice");
    psql(shop, "web", &connection(5432, "disable"), "drop role if exists alice; create role alice login")?;
    let who = || shop.crossing(1, || psql(shop, "web", &as_alice, "select inet_client_addr()"));
    let said = who()?;
    require(said == "fd00:10::1:10", || format!("PostgreSQL saw {said}"))?;
    let as_alice_v4 = as_alice.replace("host=", &format!("hostaddr={} host=", crate::shop::VIP));
    let said = psql(shop, "web", &as_alice_v4, "select inet_client_addr()")?;
    require(said == "10.10.1.10", || format!("PostgreSQL saw {said}"))?;
    // The control arm: without the caller's address, the server's own rule refuses.
    let refused = shop.with_traffic_policy("sourceAddress: proxy", "sourceAddress: preserve", || Ok(who()))?;
    require(refused.is_err_and(|why| why.contains("pg_hba")), || "PostgreSQL let a stranger's address in".to_owned())
}
