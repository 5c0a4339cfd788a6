//! Servers that speak first: MariaDB and mail. Nobody waits for a client that waits itself.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use isthmus_world::Command;
use isthmus_world::apps::{self, SelfSigned};

use crate::shop::{DEADLINE, NAME, Shop, VIP};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("mariadb_answers_over_the_mesh", &["mariadbd", "mariadb"], mariadb),
    ("mariadb_speaks_first_and_is_not_waited_for", &["mariadbd"], not_waited_for),
    ("mariadb_on_a_port_that_says_nothing_is_waited_for_once", &["mariadbd"], waited_for_once),
    ("mariadb_is_refused_for_who_is_not_allowed", &["mariadbd"], refused),
    ("mail_goes_through_with_and_without_starttls", &["python3"], mail),
];

/// Of a connection whose client says nothing: the last resort of detection.
const DETECTION: Duration = Duration::from_millis(200);
/// The best of so many is not the machine's mood.
const ATTEMPTS: usize = 5;

fn mariadb(shop: &Shop) -> Result<(), String> {
    shop.mariadb()?;
    for port in ["3306", "3307", "3308"] {
        let statement = "select 6 * 7, length(repeat('x', 10000000))";
        let command = Command::new("mariadb")
            .args(["--no-defaults", "-h", NAME, "-P", port, "-u", "root", "--batch", "--skip-column-names"])
            .args(["--skip-ssl", "-e", statement]);
        let said = shop.crossing(1, || shop.succeed("web", command))?;
        require(said.trim() == "42\t10000000", || format!("{port}: {said}"))?;
    }
    Ok(())
}

/// From the connection to the first byte that the server says by itself.
fn first_byte(shop: &Shop, port: u16) -> Result<Duration, String> {
    let to = SocketAddr::new(VIP.parse().expect("an address"), port);
    shop.host("web").run(move || {
        let started = Instant::now();
        let read = || {
            let mut stream = TcpStream::connect_timeout(&to, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)
        };
        read().map(|()| started.elapsed()).map_err(|e| format!("port {port}: no greeting: {e}"))
    })
}

fn best(shop: &Shop, port: u16) -> Result<Duration, String> {
    let mut best = Duration::MAX;
    for _ in 0..ATTEMPTS {
        best = best.min(first_byte(shop, port)?);
    }
    Ok(best)
}

/// By the port's number, and by its name.
fn not_waited_for(shop: &Shop) -> Result<(), String> {
    shop.mariadb()?;
    let dump = shop.mesh().config_dump("web")?;
    for port in [3306, 3307] {
        require(declared_server_first(&dump, port), || format!("port {port} is not known as server-first: {dump}"))?;
        let took = shop.crossing(1, || best(shop, port))?;
        require(took < DETECTION, || format!("port {port}: the first byte came after {} ms", took.as_millis()))?;
    }
    Ok(())
}

fn declared_server_first(dump: &str, port: u16) -> bool {
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap_or_default();
    let services = dump["snapshot"]["services"].as_array().cloned().unwrap_or_default();
    let ports = services.iter().filter_map(|service| service["ports"].as_array()).flatten();
    ports.into_iter().any(|p| p["port"] == port && p.to_string().to_ascii_lowercase().contains("serverfirst"))
}

/// The first caller pays for not knowing; the verdict is remembered for the next ones. This is also the control arm of
/// the case above: where nothing is declared, the wait can be measured.
fn waited_for_once(shop: &Shop) -> Result<(), String> {
    shop.mariadb()?;
    let first = first_byte(shop, 3308)?;
    let next = best(shop, 3308)?;
    require(first >= DETECTION || next < DETECTION, || format!("first {first:?}, next {next:?}"))?;
    require(next < DETECTION, || format!("the verdict is not remembered: first {first:?}, best of the next {next:?}"))
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.mariadb()?;
    shop.refuses_batch(3306, b"")
}

fn mail(shop: &Shop) -> Result<(), String> {
    let (certificate, key) =
        SelfSigned::new(&[NAME]).and_then(|c| c.write(&shop.file(""))).map_err(|e| e.to_string())?;
    let arguments = ["2525".to_owned(), certificate.display().to_string(), key.display().to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = include_str!("programs/mail_server.py");
    let server = apps::python_server(shop.host("orders"), 2525, program, &arguments).map_err(|e| e.to_string())?;
    for tls in ["plain", "starttls"] {
        let program = include_str!("programs/mail_client.py");
        let send = || {
            let done = apps::python_client(shop.host("web"), program, &[NAME, "2525", tls], DEADLINE);
            done.map_err(|e| e.to_string())
        };
        let done = shop.crossing(1, send)?;
        require(done.status.success(), || format!("{tls}: {}{}", done.stdout, done.stderr))?;
        let line = format!("{tls}: 20000 lines");
        let seen = server.process().wait_for_line("the mail", DEADLINE, |seen| seen.contains(&line));
        seen.map_err(|e| e.to_string())?;
    }
    Ok(())
}
