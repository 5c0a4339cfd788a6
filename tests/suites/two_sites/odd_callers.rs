//! Callers that try to be somebody else, or to reach what nobody has.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_world::apps::raw::{self, Then};
use isthmus_world::mesh::{Mesh, ORDERS_URL, resources};

use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("forged_internal_headers_do_not_reach_the_app", forged_internal_headers),
    ("a_spoofed_client_certificate_header_is_replaced", spoofed_client_certificate),
    ("an_unknown_virtual_address_is_refused_and_never_passed_through", unknown_virtual_address),
    ("an_unknown_address_of_a_site_is_refused_and_never_passed_through", unknown_site_address),
    ("ipv6_is_captured_and_authorised_like_ipv4", ipv6),
    ("batch_is_refused_over_ipv6_too", ipv6_denied),
    ("no_spelling_of_a_path_a_host_or_a_header_slips_past_a_deny", spellings),
];

const DENY: &str = "  deny:
    - to: { ports: [8080], paths: [\"/admin/*\"] }
    - to: { ports: [8080], hosts: [admin.shop] }
    - to: { ports: [8080], headers: [{ name: x-role, values: [guest] }] }
";

/// Target, host, more lines of the head.
type Spelled = (&'static str, &'static str, &'static str);

const REFUSED: &[Spelled] = &[
    ("/admin/x", "o", ""),
    ("/admin/", "o", ""),
    ("/admin", "o", ""),
    ("/ADMIN/x", "o", ""),
    ("//admin/x", "o", ""),
    ("/x//..//admin/x", "o", ""),
    ("/./admin/x", "o", ""),
    ("/x/../admin/x", "o", ""),
    ("/x/%2e%2e/admin/x", "o", ""),
    ("/x/%2E./admin/x", "o", ""),
    ("/%61dmin/x", "o", ""),
    ("/%61%64%6D%69%6e", "o", ""),
    ("/admin;v=1/x", "o", ""),
    ("/x/..;/admin/x", "o", ""),
    ("/x%2f..%2fadmin/x", "o", ""),
    ("/x%5c..%5cadmin/x", "o", ""),
    ("/%2561dmin/x", "o", ""),
    ("/x/%c0%ae%c0%ae/admin/x", "o", ""),
    ("/admin%00/x", "o", ""),
    ("/../admin/x", "o", ""),
    ("http://o/admin/x", "o", ""),
    ("http://o/x/../admin", "o", ""),
    ("http://admin.shop/", "o", ""),
    ("/", "admin.shop", ""),
    ("/", "ADMIN.shop:80", ""),
    ("/", "admin.shop.", ""),
    ("/", "admin.shop..", ""),
    ("/", "admin.shop:", ""),
    ("/", "o", "X-Role: guest\r\n"),
    ("/", "o", "x-role: admin\r\nx-role: guest\r\n"),
    ("/", "o", "x-role: admin, GUEST\r\n"),
    ("/", "o", "x-role: guest;q=1\r\n"),
    ("/", "o", "X_Role: guest\r\n"),
];

/// No request at all, or none that has one meaning.
const MALFORMED: &[Spelled] = &[
    ("admin/x", "o", ""),
    ("/admin/x#y", "o", ""),
    ("*", "o", ""),
    ("/x\0/admin", "o", ""),
    ("/\u{e9}/admin", "o", ""),
    ("/", "o\r\nHost: admin.shop", ""),
    ("http://u@admin.shop/", "o", ""),
    ("/", "u@admin.shop", ""),
    ("/", "o", "X-Role: admin,\r\n guest\r\n"),
    ("/", "o", "X-Role : guest\r\n"),
    ("/", "o", "X-Role: ad\0min\r\n"),
];

/// The control arm: what comes beside, and the path that the app is told.
const PASSES: &[(Spelled, &str)] = &[
    (("/public", "o", ""), "/public"),
    (("/administer", "o", ""), "/administer"),
    (("/x/../public", "o", ""), "/public"),
    (("//a%62c/./d", "o", ""), "/abc/d"),
    (("/caf%c3%a9?q=/../admin/%2f", "o", ""), "/caf%C3%A9?q=/../admin/%2f"),
    (("http://o/public", "admin.shop", ""), "/public"),
    (("/public", "other.shop", "X-Role: admin\r\nX_Other: guest\r\n"), "/public"),
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

/// By its own sidecar and past any, in raw bytes: no client library tidies them up.
fn spellings(mesh: &mut Mesh) -> Result<(), String> {
    mesh.apply(&format!("{}\n{DENY}", resources::plaintext_allowed().trim_end()))?;
    let say = |from: &str, (target, host, more): &Spelled| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
        let to: SocketAddr =
            if from == "web" { "10.96.0.10:80" } else { "10.20.1.10:8080" }.parse().expect("it is one");
        raw::exchange(mesh.world().host(from), to, head, Then::Read, Duration::from_secs(20)).text()
    };
    let mut wrong = Vec::new();
    for from in ["web", "stranger"] {
        for (spelled, expected) in PASSES {
            let said = say(from, spelled);
            if !said.starts_with("HTTP/1.1 200") || !said.contains(&format!("\"path\":\"{expected}\"")) {
                wrong.push(format!("{from}: {spelled:?}: {said}"));
            }
        }
        let before = mesh.orders_reached()?;
        for spelled in REFUSED {
            let said = say(from, spelled);
            if !said.starts_with("HTTP/1.1 403") || !said.contains("denied-by-rule") {
                wrong.push(format!("{from}: {spelled:?}: {said}"));
            }
        }
        for spelled in MALFORMED {
            let said = say(from, spelled);
            if !said.is_empty() && !said.starts_with("HTTP/1.1 400") {
                wrong.push(format!("{from}: {spelled:?}: {said}"));
            }
        }
        let reached = mesh.orders_reached()? - before;
        if reached > 0 {
            wrong.push(format!("{from}: {reached} requests reached the app"));
        }
    }
    require(wrong.is_empty(), || wrong.join("\n"))
}
