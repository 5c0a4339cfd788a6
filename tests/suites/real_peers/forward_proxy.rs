//! An app with HTTP_PROXY, and the forward proxy that it believes to be there, which is a service of the mesh: requests
//! in absolute-form and the app's own CONNECT are between the two.

use isthmus_world::privilege::{Privilege, current};

use crate::curl::curl;
use crate::shop::{NAME, Shop};
use crate::{Case, require};

const PROGRAMS: &[&str] = &["curl", "nginx", "apache2"];

pub(crate) const CASES: &[Case] = &[
    ("forward_proxy_gets_the_apps_absolute_form", PROGRAMS, absolute_form),
    ("forward_proxy_carries_the_apps_own_connect", PROGRAMS, connect),
    ("forward_proxy_is_refused_for_who_is_not_allowed", PROGRAMS, refused),
];

/// Apache gives up root, and cannot where root is the only user.
fn started(shop: &Shop) -> Result<bool, String> {
    if current() != Privilege::Root {
        eprintln!("SKIPPED: Apache needs real root");
        return Ok(false);
    }
    shop.nginx()?;
    shop.apache()?;
    Ok(true)
}

/// curl through the proxy; the helper's own `--noproxy` is taken back.
fn through(shop: &Shop, from: &str, arguments: &[&str], url: &str) -> Result<crate::curl::Got, String> {
    let proxy = format!("http://{NAME}:8230");
    let arguments = [&["--noproxy", "", "--proxy", &proxy, "--http1.1"], arguments].concat();
    curl(shop, from, &arguments, &[url.to_owned()])
}

/// What is asked for is on the loopback of the proxy's host, where only the proxy itself can have got it.
fn absolute_form(shop: &Shop) -> Result<(), String> {
    if !started(shop)? {
        return Ok(());
    }
    let asked = ["--header", "x-file: by way of a proxy"];
    let got = shop.crossing(1, || through(shop, "web", &asked, "http://127.0.0.1:8184/"))?;
    let via = got.field("via").unwrap_or_default();
    require(got.status == 200 && got.text() == "by way of a proxy" && via.contains("peers"), || format!("{got:?}"))
}

fn connect(shop: &Shop) -> Result<(), String> {
    if !started(shop)? {
        return Ok(());
    }
    let got = shop.crossing(1, || through(shop, "web", &["--proxytunnel"], "https://127.0.0.1:8183/"))?;
    let established = got.head.starts_with("HTTP/1.0 200") || got.head.starts_with("HTTP/1.1 200");
    require(established && got.status == 200 && got.text().starts_with("first TLSv1.3 "), || format!("{got:?}"))
}

fn refused(shop: &Shop) -> Result<(), String> {
    if !started(shop)? {
        return Ok(());
    }
    let got = shop.refusing(|| through(shop, "batch", &[], "http://127.0.0.1:8184/"))?;
    require(got.status == 403 && got.field("isthmus-denied") == Some("not-allowed"), || format!("{got:?}"))?;
    let failed = shop.refusing(|| Ok(through(shop, "batch", &["--proxytunnel"], "https://127.0.0.1:8183/")))?;
    require(failed.is_err(), || format!("batch got {failed:?}"))
}
