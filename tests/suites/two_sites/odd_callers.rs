//! Callers that try to be somebody else, or to reach what nobody has.

use isthmus_world::mesh::{Mesh, ORDERS_URL};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("forged_internal_headers_do_not_reach_the_app", forged_internal_headers),
    ("a_spoofed_client_certificate_header_is_replaced", spoofed_client_certificate),
    ("an_unknown_virtual_address_is_refused_and_never_passed_through", unknown_virtual_address),
    ("an_unknown_address_of_a_site_is_refused_and_never_passed_through", unknown_site_address),
    ("ipv6_is_captured_and_authorised_like_ipv4", ipv6),
    ("batch_is_refused_over_ipv6_too", ipv6_denied),
];

fn forged_internal_headers(mesh: &mut Mesh) -> Result<(), String> {
    let forged = [
        ("isthmus-port", "5432"),
        ("Isthmus-Elapsed", "total=1;app=1"),
        ("isthmus_port", "22"),
        ("ISTHMUS_Denied", "no"),
        ("connection", "x-own, isthmus-port"),
    ];
    let answer = mesh.get_with("web", ORDERS_URL, &forged)?;
    require(answer.status == 200, || format!("{} {}", answer.status, answer.body))?;
    let body = answer.body.to_ascii_lowercase();
    require(!body.contains("isthmus-") && !body.contains("isthmus_"), || format!("the app saw {}", answer.body))?;
    let inside = answer.headers.iter().find(|(name, _)| name.to_ascii_lowercase().starts_with("isthmus"));
    require(inside.is_none(), || format!("the caller saw an internal header: {inside:?}"))
}

fn spoofed_client_certificate(mesh: &mut Mesh) -> Result<(), String> {
    let admin = "URI=spiffe://shop.example/ns/shop/sa/admin";
    let spoofed = [("x-forwarded-client-cert", admin), ("X_Forwarded_Client_Cert", admin)];
    let answer = mesh.get_with("web", ORDERS_URL, &spoofed)?;
    require(answer.status == 200, || format!("{} {}", answer.status, answer.body))?;
    require(!answer.body.contains("sa/admin"), || format!("the app was told a lie: {}", answer.body))?;
    require(answer.body.contains("sa/web"), || format!("the app was not told its caller: {}", answer.body))
}

fn unknown_virtual_address(mesh: &mut Mesh) -> Result<(), String> {
    refused_as_unknown(mesh, "http://10.96.0.200/")
}

/// Inside dc1's range, and no workload has it: a listener that happens to be there must not be reached.
fn unknown_site_address(mesh: &mut Mesh) -> Result<(), String> {
    let listener = mesh.listener_on("stranger", 8088)?;
    refused_as_unknown(mesh, "http://10.20.1.99:8088/")?;
    require(listener.accepted() == 0, || "the unknown address was passed through".to_owned())
}

fn refused_as_unknown(mesh: &Mesh, url: &str) -> Result<(), String> {
    let labels = [("reason", "destination-unknown")];
    let before = mesh.metric("web", "isthmus_refused_total", &labels)?;
    match mesh.get("web", url) {
        Ok(answer) => {
            let reason = answer.header("isthmus-denied").unwrap_or_default();
            require(answer.status == 502 && reason == "destination-unknown", || format!("{url}: {answer:?}"))?;
        }
        // A reset is a refusal as well; the metric tells which.
        Err(reset) => require(!reset.contains("timed out"), || reset.clone())?,
    }
    let after = mesh.metric("web", "isthmus_refused_total", &labels)?;
    require(after > before, || format!("{url}: the metric does not show destination-unknown"))
}

fn ipv6(mesh: &mut Mesh) -> Result<(), String> {
    let answer = mesh.get("web", "http://[fd00:96::10]/")?;
    require(answer.status == 200, || format!("{} {}", answer.status, answer.body))?;
    require(answer.body.contains("sa/web"), || format!("the app was not told its caller: {}", answer.body))
}

fn ipv6_denied(mesh: &mut Mesh) -> Result<(), String> {
    let answer = mesh.get("batch", "http://[fd00:96::10]/")?;
    require(answer.status == 403, || format!("{} {}", answer.status, answer.body))
}
