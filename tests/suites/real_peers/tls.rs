//! TLS of the app's own: passed through by its name, ends in the app.

use crate::curl::curl;
use crate::shop::{NAME, Shop, VIP};
use crate::{Case, require};

pub(crate) const CASES: &[Case] = &[
    ("tls_of_the_app_passes_by_its_name", &["curl", "nginx"], by_name),
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

fn refused(shop: &Shop) -> Result<(), String> {
    shop.nginx()?;
    let there = format!("::{VIP}:8183");
    let url = format!("https://{NAME}/");
    let failed = shop.refusing(|| Ok(curl(shop, "batch", &["--connect-to", &there], std::slice::from_ref(&url))))?;
    require(failed.is_err(), || format!("batch got {failed:?}"))
}
