//! Services outside of the mesh: by name (ExternalName) and by addresses written by hand, in plain and in TLS that the
//! sidecar begins; none of them a way around EgressPolicies.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use isthmus_world::apps::{self, Daemon, SelfSigned, Server};
use isthmus_world::mesh::Mesh;

use crate::egress::{Outside, RIGHT, WRONG, fetch, passes, policy, refusals, refused};
use crate::{Test, require};

pub(crate) const TESTS: &[Test] = &[
    ("an_external_name_is_reached_in_plain_and_in_tls_that_the_sidecar_begins", by_name),
    ("tls_to_a_service_outside_shows_a_certificate_from_the_host", client_certificate),
    ("endpoints_outside_are_asked_of_egress_policies", by_address),
    ("tls_to_a_service_outside_is_proved_by_the_hosts_own_roots_where_no_ca_is_named", by_host_roots),
    ("an_endpoint_outside_that_fails_its_health_check_gets_no_traffic_until_it_returns", by_health),
];

const URL: &str = "http://payments.shop.svc.cluster.local/";
/// Nobody has a sidecar there, so that MeshOnly would refuse everything.
const TRANSPORT: &str = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: ServicePolicy\nmetadata: { namespace: shop, name: payments }\n\
                         spec: { services: [payments], transport: @TRANSPORT@ }\n";

fn service(target: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: payments }}\nspec:\n  type: ExternalName\n  \
         externalName: api.example\n  clusterIP: 10.96.0.40\n  ports: [{{ name: http, port: 80, targetPort: {target} }}]\n---\n"
    )
}

fn transport(transport: &str) -> String {
    format!("{}---\n", TRANSPORT.replace("@TRANSPORT@", transport))
}

fn tls(server_name: &str, ca: &SelfSigned, more: &str) -> String {
    let ca: String = ca.pem().lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ namespace: shop, name: payments }}\nspec:\n  \
         services: [payments]\n  tls:\n    serverName: {server_name}\n    ca: |\n{ca}{more}"
    )
}

fn by_name(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    mesh.apply(&format!("{}{}", service(80), transport("Permissive")))?;
    let got = passes(mesh, &[URL])?;
    // As Kubernetes documents it: the Host stays what the app said.
    require(got.json()["host"] == "payments.shop.svc.cluster.local", || format!("{got:?}"))?;
    mesh.apply(&transport("HttpsOnly"))?;
    let got = fetch(mesh, &[URL])?;
    require(got.status == 403 && got.header("isthmus-denied") == "plaintext", || format!("{got:?}"))?;

    let ca = &outside.certificate;
    mesh.apply(&format!("{}{}", service(443), tls("api.example", ca, "")))?;
    let got = passes(mesh, &[URL])?;
    let said = got.json();
    require(said["tls"] == "TLSv1.3" && said["host"] == "api.example", || format!("{got:?}"))?;
    // With a body, too.
    passes(mesh, &["--data", "x=1", URL])?;
    // SNI and Host are one.
    let before = refusals(mesh, "name-mismatch")?;
    let got = fetch(mesh, &["-H", "Host: other.example", URL])?;
    require(got.status == 403 && refusals(mesh, "name-mismatch")? > before, || format!("{got:?}"))?;

    let stranger = SelfSigned::new(&["api.example"]).map_err(|e| e.to_string())?;
    for (name, ca, what) in [("api.example", &stranger, "another CA"), ("unproved.example", ca, "another name")] {
        mesh.apply(&tls(name, ca, ""))?;
        let before = refusals(mesh, "peer-identity")?;
        let got = fetch(mesh, &[URL])?;
        require(got.status == 502 && got.header("isthmus-denied") == "peer-identity", || format!("{what}: {got:?}"))?;
        require(refusals(mesh, "peer-identity")? > before, || format!("{what} is not counted"))?;
    }
    mesh.apply(&tls("api.example", ca, ""))?;
    passes(mesh, &[URL])?;

    // Naming it a service opens nothing.
    mesh.apply(&policy("  default: Deny\n"))?;
    let got = refused(mesh, &outside, "not-allowed", &[URL])?;
    require(got.status == 403, || format!("{got:?}"))?;
    mesh.apply(&policy("  transport: HttpsOnly\n  allow:\n    - { hosts: [api.example], ports: [443] }\n"))?;
    passes(mesh, &[URL]).map(|_| ())
}

fn client_certificate(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    let own = SelfSigned::new(&["web.example"]).map_err(|e| e.to_string())?;
    let files = mesh.world().host("web").files().join("origination");
    std::fs::create_dir_all(&files).map_err(|e| e.to_string())?;
    let (certificate, key) = own.write(&files).map_err(|e| e.to_string())?;
    let there = outside.host.files().join("demanding");
    std::fs::create_dir_all(&there).map_err(|e| e.to_string())?;
    let (server, server_key) = outside.certificate.write(&there).map_err(|e| e.to_string())?;
    let configuration = NGINX
        .replace("@SERVER@", &server.display().to_string())
        .replace("@KEY@", &server_key.display().to_string())
        .replace("@CLIENT@", &certificate.display().to_string());
    let _nginx = Daemon::nginx(&outside.host, 9443, &configuration).map_err(|e| e.to_string())?;

    let without = tls("api.example", &outside.certificate, "");
    mesh.apply(&format!("{}{}{without}", service(9443), transport("HttpsOnly")))?;
    let got = fetch(mesh, &[URL])?;
    require(got.status == 400, || format!("without a certificate: {got:?}"))?;
    let more = format!("    clientCertificate: {}\n    clientKey: {}\n", certificate.display(), key.display());
    mesh.apply(&tls("api.example", &outside.certificate, &more))?;
    let got = passes(mesh, &[URL])?;
    require(got.body.starts_with("SUCCESS"), || format!("{got:?}"))
}

/// What the host's programs trust, as its environment names it.
fn by_host_roots(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    let stranger = SelfSigned::new(&["api.example"]).map_err(|e| e.to_string())?;
    let origination = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { namespace: shop, name: payments }\n\
                       spec: { services: [payments], tls: { serverName: api.example } }\n";
    mesh.apply(&format!("{}{}{origination}", service(443), transport("HttpsOnly")))?;
    let roots = |certificate: &SelfSigned, name: &str| {
        let file = mesh.file(name);
        std::fs::write(&file, certificate.pem()).map_err(|e| e.to_string())?;
        Ok::<_, String>(file.display().to_string())
    };
    let (others, right) = (roots(&stranger, "others.pem")?, roots(&outside.certificate, "right.pem")?);
    // The control arm: the same server under another host's roots.
    for (file, known) in [(&others, false), (&right, true)] {
        mesh.kill_sidecar("web")?;
        mesh.start_sidecar_in("web", &[("SSL_CERT_FILE", file)])?.ready()?;
        let got = fetch(mesh, &[URL])?;
        if known {
            let said = got.json();
            require(got.status == 200 && said["tls"] == "TLSv1.3" && said["host"] == "api.example", || {
                format!("{got:?}")
            })?;
        } else {
            let word = got.header("isthmus-denied");
            require(got.status == 502 && word == "peer-identity", || format!("under other roots: {got:?}"))?;
        }
    }
    Ok(())
}

const NGINX: &str = "daemon off;\nuser root root;\nmaster_process off;\npid @DIR@/nginx.pid;\nerror_log stderr notice;\n\
events { worker_connections 64; }\nhttp {\n access_log off;\n client_body_temp_path @DIR@/body;\n proxy_temp_path @DIR@/proxy;\n \
fastcgi_temp_path @DIR@/fastcgi;\n uwsgi_temp_path @DIR@/uwsgi;\n scgi_temp_path @DIR@/scgi;\n server {\n  listen 0.0.0.0:9443 ssl;\n  \
ssl_certificate @SERVER@;\n  ssl_certificate_key @KEY@;\n  ssl_client_certificate @CLIENT@;\n  ssl_verify_client on;\n  \
location / { return 200 \"$ssl_client_verify\\n\"; }\n }\n}\n";

fn by_address(mesh: &mut Mesh) -> Result<(), String> {
    let outside = Outside::start(mesh)?;
    let written = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: payments }}\nspec:\n  clusterIP: 10.96.0.40\n  \
         ports: [{{ name: http, port: 80 }}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         namespace: shop\n  name: payments-1\n  labels: {{ kubernetes.io/service-name: payments }}\naddressType: IPv4\n\
         endpoints: [{{ addresses: [{RIGHT}] }}]\nports: [{{ name: http, port: 80 }}]\n---\n"
    );
    mesh.apply(&format!("{written}{}", transport("Permissive")))?;
    passes(mesh, &[URL])?;
    mesh.apply(&policy("  default: Deny\n"))?;
    refused(mesh, &outside, "not-allowed", &[URL])?;
    mesh.apply(&policy(&format!("  allow:\n    - {{ cidrs: [{RIGHT}/32], ports: [80] }}\n")))?;
    passes(mesh, &[URL]).map(|_| ())
}

/// Of two plain servers that this test starts and stops.
const PORT: u16 = 8085;
const SOON: Duration = Duration::from_secs(20);

fn by_health(mesh: &mut Mesh) -> Result<(), String> {
    let _outside = Outside::start(mesh)?;
    let written = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ namespace: shop, name: payments }}\nspec:\n  clusterIP: 10.96.0.40\n  \
         ports: [{{ name: http, port: 80 }}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         namespace: shop\n  name: payments-1\n  labels: {{ kubernetes.io/service-name: payments }}\naddressType: IPv4\n\
         endpoints: [{{ addresses: [{RIGHT}] }}, {{ addresses: [{WRONG}] }}]\nports: [{{ name: http, port: {PORT} }}]\n---\n"
    );
    mesh.apply(&format!("{written}{}", transport("Permissive")))?;
    let (right, mut wrong) = (serve(mesh, "right")?, Some(serve(mesh, "wrong")?));
    // Both have their turn; and without a check, one that is gone goes on having its turn.
    require(of_ten(mesh)? == 10, || "both serve".to_owned())?;
    let both = [right.requests(), wrong.as_ref().map_or(0, Server::requests)];
    require(both.iter().all(|count| *count >= 4), || format!("{both:?}"))?;
    wrong = None;
    let lost = 10 - of_ten(mesh)?;
    require(lost >= 4, || format!("the control arm lost {lost}"))?;

    let check = "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { namespace: shop, name: payments }\n\
                 spec:\n  services: [payments]\n  healthCheck: { tcp: true, interval: 1s, timeout: 500ms, failures: 2 }\n";
    mesh.apply(check)?;
    until(mesh, "the one that is gone has no turn", |mesh| Ok(of_ten(mesh)? == 10))?;
    require(of_ten(mesh)? == 10, || "it has its turn again".to_owned())?;
    require(ejected(mesh)? == (1.0, 1.0), || format!("{:?} are ejected", ejected(mesh)))?;
    until(mesh, "the control plane tells who finds it down", |mesh| {
        let [right, wrong] = [RIGHT, WRONG].map(|ip| told(mesh, &ip.to_string()));
        let (right, wrong) = (right?, wrong?);
        let by = &wrong["downBy"][0];
        Ok(right["up"] == 1
            && right["down"] == 0
            && wrong["down"] == 1
            && by["workload"] == "shop/web"
            && by["reason"].as_str().is_some_and(|reason| !reason.is_empty())
            && wrong["port"] == PORT)
    })?;
    let back = serve(mesh, "wrong")?;
    until(mesh, "it has its turn again", |mesh| {
        of_ten(mesh)?;
        Ok(back.requests() > 0)
    })?;
    until(mesh, "and that it is up", |mesh| Ok(told(mesh, &WRONG.to_string())?["up"] == 1))?;
    require(of_ten(mesh)? == 10 && wrong.is_none(), || "both serve again".to_owned())?;
    require(ejected(mesh)? == (0.0, 1.0), || format!("{:?} are ejected", ejected(mesh)))
}

/// How many endpoints outside the caller has ejected, now and in all.
fn ejected(mesh: &Mesh) -> Result<(f64, f64), String> {
    let [now, in_all] =
        ["isthmus_endpoints_ejected", "isthmus_endpoint_ejections_total"].map(|name| mesh.metric("web", name, &[]));
    Ok((now?, in_all?))
}

/// How the control plane tells the only port of an endpoint of payments.
fn told(mesh: &Mesh, ip: &str) -> Result<serde_json::Value, String> {
    let answer = mesh.isthmus_json(&["endpoints", "shop/payments", "--json"])?;
    let all = answer["endpoints"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().find(|one| one["ip"] == ip).map(|one| one["health"][0].clone()).unwrap_or_default())
}

fn serve(mesh: &Mesh, host: &str) -> Result<Server, String> {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    apps::http_server(mesh.world().host(host), at).map_err(|e| e.to_string())
}

/// How many of ten requests are answered.
fn of_ten(mesh: &Mesh) -> Result<usize, String> {
    let mut good = 0;
    for _ in 0..10 {
        good += usize::from(fetch(mesh, &[URL])?.status == 200);
    }
    Ok(good)
}

fn until(mesh: &Mesh, what: &str, mut holds: impl FnMut(&Mesh) -> Result<bool, String>) -> Result<(), String> {
    let end = Instant::now() + SOON;
    while !holds(mesh)? {
        require(Instant::now() < end, || format!("not within {SOON:?}: {what}"))?;
    }
    Ok(())
}
