//! Third-party programs, where they are installed.

use std::time::Duration;

use isthmus_world::apps::{Nginx, Postgres, SelfSigned, curl, fetch, http_server, openssl_client, psql};
use isthmus_world::{World, find};
use libtest_mimic::Trial;

use crate::{Outcome, SOON, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("curl_reaches_a_server_over_the_link", curl_over_the_link),
        test("nginx_answers_and_counts", nginx),
        test("openssl_talks_tls_1_1_to_nginx", tls_1_1),
        test("psql_reaches_postgres_over_the_link", postgres),
    ]
}

fn curl_over_the_link() -> Outcome {
    let world = World::two_sites().build()?;
    let server = http_server(world.host("orders"), ([0, 0, 0, 0], 0).into())?;
    let to = world.host("orders").socket(server.address().port());
    let fetched = fetch(world.host("web"), "http://orders/a", &[("x-one", "1")], Some(to), SOON)?;
    assert_eq!((fetched.status, &fetched.error), (200, &None), "{fetched:?}");
    assert_eq!(fetched.json()["headers"]["x-one"], "1");
    assert_eq!(fetched.header("content-type"), "application/json");
    assert!(fetched.took >= Duration::from_millis(8), "two round trips: {:?}", fetched.took);
    drop(server);
    let fetched = fetch(world.host("web"), "http://orders/a", &[], Some(to), SOON)?;
    assert!(fetched.status == 0 && fetched.error.is_some(), "{fetched:?}");
    Ok(())
}

fn nginx() -> Outcome {
    if find::or_skip(&["nginx", "curl"], "nginx as an app").is_none() {
        return Ok(());
    }
    let world = World::two_sites().build()?;
    let nginx = Nginx::start(world.host("orders"), 8080, 8443, 8081, &SelfSigned::new(&["orders"])?)?;
    assert_eq!(nginx.accepted()?, 0);
    let identity = "x-forwarded-client-cert: URI=spiffe://shop.example/ns/shop/sa/web";
    let fetched = curl(world.host("web"), &["-H", identity, "http://10.20.1.10:8080/"], SOON)?;
    assert_eq!(fetched.json()["clientCertificate"], "URI=spiffe://shop.example/ns/shop/sa/web", "{fetched:?}");
    let fetched = curl(world.host("web"), &["https://10.20.1.10:8443/"], SOON)?;
    assert_eq!(fetched.json()["tls"], "TLSv1.3", "{fetched:?}");
    let fetched = curl(world.host("web"), &["http://[fd00:20::1:10]:8080/"], SOON)?;
    assert_eq!(fetched.status, 200, "{fetched:?}");
    assert_eq!(nginx.accepted()?, 3);
    Ok(())
}

fn tls_1_1() -> Outcome {
    if find::or_skip(&["nginx", "openssl"], "TLS 1.1 between third-party programs").is_none() {
        return Ok(());
    }
    let world = World::two_sites().build()?;
    let nginx = Nginx::start(world.host("orders"), 8080, 8443, 8081, &SelfSigned::new(&["orders"])?)?;
    let to = world.host("orders").socket(8443);
    let request = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    for (version, name) in [("-tls1_1", "TLSv1.1"), ("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let attempt = openssl_client(world.host("web"), to, "orders", version, request, SOON)?;
        assert_eq!(attempt.version.as_deref(), Some(name), "{}", attempt.log);
        assert!(attempt.answer.contains(name), "{}", attempt.log);
    }
    assert_eq!(nginx.accepted()?, 3);
    let closed = world.host("orders").socket(9);
    assert_eq!(openssl_client(world.host("web"), closed, "orders", "-tls1_1", request, SOON)?.version, None);
    Ok(())
}

fn postgres() -> Outcome {
    const LONG: Duration = Duration::from_secs(60);
    if find::or_skip(&["initdb", "postgres", "psql"], "PostgreSQL as an app").is_none() {
        return Ok(());
    }
    let world = World::two_sites().build()?;
    let _postgres = Postgres::start(world.host("orders"), 5432)?;
    let finished = psql(world.host("web"), "10.20.1.10", 5432, "select 6 * 7, inet_client_addr()", LONG)?;
    assert_eq!(finished.stdout.trim(), "42|10.10.1.10", "{finished:?}");
    Ok(())
}
