//! SQL Server's TDS on its well-known port: TLS inside of its packets, which nobody on the way may take for TLS.

use isthmus_world::apps::{self, SelfSigned};

use crate::shop::{DEADLINE, NAME, Shop};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[("tds_prelogin_and_the_tls_inside_of_it_pass_unharmed", &["python3"], prelogin)];

const PROGRAM: &str = include_str!("programs/tds.py");

fn prelogin(shop: &Shop) -> Result<(), String> {
    let (certificate, key) =
        SelfSigned::new(&[NAME]).and_then(|c| c.write(&shop.file(""))).map_err(|e| e.to_string())?;
    let arguments =
        ["server".to_owned(), "1433".to_owned(), certificate.display().to_string(), key.display().to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = apps::python_server(shop.host("orders"), 1433, PROGRAM, &arguments).map_err(|e| e.to_string())?;
    let ask = || {
        let done = apps::python_client(shop.host("web"), PROGRAM, &["client", "1433", NAME], DEADLINE);
        done.map_err(|e| e.to_string())
    };
    let done = shop.crossing(1, ask)?;
    require(done.status.success(), || format!("{}{}\n{}", done.stdout, done.stderr, server.process().last_lines()))?;
    // Both print every byte outside of TLS that they sent or got.
    let client = |word: &str| done.stdout.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
    for (sent, got) in [("sent prelogin ", "got prelogin "), ("sent login ", "got login ")] {
        let sent = client(sent).ok_or_else(|| format!("the client did not say {sent:?}: {}", done.stdout))?;
        let line = format!("{got}{sent}");
        let seen = server.process().wait_for_line(&line, DEADLINE, |seen| seen == line);
        seen.map_err(|e| e.to_string())?;
    }
    require(done.stdout.contains("got answer the login is taken"), || done.stdout.clone())?;
    shop.refuses_batch(1433, b"\x12\x01\x00\x2f\x00\x00\x01\x00")
}
