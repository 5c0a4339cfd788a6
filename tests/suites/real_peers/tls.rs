//! TLS of the app's own: passed through by its name, ends in the app.

use crate::curl::curl;
use crate::shop::{NAME, Shop, VIP};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("tls_of_the_app_passes_by_its_name", &["curl", "nginx"], by_name),
    ("tls_alert_of_the_server_reaches_the_caller", &["curl", "nginx"], alert),
    ("tls_of_the_app_is_refused_for_who_is_not_allowed", &["curl", "nginx"], refused),
];

fn by_name(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let there = format!("::{VIP}:8183");
    for (version, maximum, protocol) in [("--tlsv1.2", "1.2", "TLSv1.2"), ("--tlsv1.3", "1.3", "TLSv1.3")] {
        for (name, server) in [(NAME, "first"), ("other.test", "second")] {
            for (http, spoken) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
                let arguments = [version, "--tls-max", maximum, http, "--connect-to", &there];
                let url = format!("https://{name}/");
                let got = shop.crossing(1, || curl(shop, "web", &arguments, std::slice::from_ref(&url)))?;
                let expected = format!("{server} {protocol} {name} {spoken}\n");
                require(got.status == 200 && got.text() == expected, || format!("{version} {url}: {got:?}"))?;
                // It is the app's own certificate that the caller saw, and no other's.
                require(!got.said.contains("spiffe"), || got.said.clone())?;
            }
        }
    }
    Ok(())
}

/// The last thing that a server says before it closes is what the caller has to hear.
fn alert(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let there = format!("::{VIP}:8185");
    let arguments = ["--tlsv1.3", "--connect-to", &there];
    for _ in 0..5 {
        let failed = shop.crossing(1, || Ok(curl(shop, "web", &arguments, &[format!("https://{NAME}/")])))?;
        let heard = failed.as_ref().is_err_and(|why| why.contains("alert protocol version"));
        require(heard, || format!("the caller did not hear nginx's alert: {failed:?}"))?;
    }
    Ok(())
}

fn refused(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let there = format!("::{VIP}:8183");
    let url = format!("https://{NAME}/");
    let failed = shop.refusing(|| Ok(curl(shop, "batch", &["--connect-to", &there], std::slice::from_ref(&url))))?;
    require(failed.is_err(), || format!("batch got {failed:?}"))
}
