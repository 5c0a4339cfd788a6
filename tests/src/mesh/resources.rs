//! The demo's resources, from `deploy/examples/two-sites`, and the ways in which a line bends one rule of them.

pub const MESH: &str = include_str!("../../../deploy/examples/two-sites/mesh.yaml");
pub const WORKLOADS: &str = include_str!("../../../deploy/examples/two-sites/workloads.yaml");
pub const SERVICES: &str = include_str!("../../../deploy/examples/two-sites/services.yaml");
pub const POLICIES: &str = include_str!("../../../deploy/examples/two-sites/policies.yaml");

/// The example's mesh with this run's collector and certificate lifetime.
pub fn mesh(collector: &str, leaf_lifetime: &str) -> String {
    bend(MESH, "leafLifetime: 24h", &format!("leafLifetime: {leaf_lifetime}")).replacen(
        "    sampling: 1.0",
        &format!("    sampling: 1.0\n    otlp: \"{collector}\""),
        1,
    )
}

/// `batch` on the allow-list of `orders`, all else as it was.
pub fn batch_allowed() -> String {
    bend(policy("orders"), "serviceAccounts: [web]", "serviceAccounts: [web, batch]")
}

/// Plaintext allowed at `orders`, all else as it was.
pub fn plaintext_allowed() -> String {
    bend(policy("orders"), "transport: HttpsOnly", "transport: Permissive")
}

/// TLS 1.1 allowed at `orders-tls`, all else as it was.
pub fn old_tls_allowed() -> String {
    bend(policy("orders-tls"), "minTlsVersion: \"1.2\"", "minTlsVersion: \"1.1\"")
}

/// A ServicePolicy of the example by its name.
pub fn policy(name: &str) -> &'static str {
    let line = format!("  name: {name}\n");
    POLICIES.split("\n---\n").find(|document| document.contains(&line)).expect("the example has this policy")
}

/// Replaces exactly one place: an example that has changed must not silently leave the rule as it was.
fn bend(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "`{from}` is not exactly once in:\n{text}");
    text.replacen(from, to, 1)
}
