use serde_json::json;

use super::*;

#[test]
fn what_nobody_thought_of_is_blanked_out() {
    let document = json!({
        "kind": "ServicePolicy",
        "metadata": { "name": "orders", "namespace": "shop", "annotations": { "name": "hunter2" }, "labels": { "kind": "x9" } },
        "spec": { "allow": [{ "to": { "ports": [80], "headers": [{ "name": "x-key", "values": ["hunter2"] }] } }],
                  "tls": { "ca": "hunter2" }, "somethingNew": { "deep": ["hunter2"] }, "transport": "MeshOnly" },
    });
    let shown = super::document(&document);
    let text = shown.to_string();
    assert!(!text.contains("hunter2") && !text.contains("x9"), "{text}");
    assert_eq!(shown["spec"]["transport"], "MeshOnly");
    assert_eq!(shown["spec"]["allow"][0]["to"]["ports"][0], 80);
    assert_eq!(shown["spec"]["allow"][0]["to"]["headers"][0]["name"], "x-key");
}

#[test]
fn what_looks_like_a_secret_is_taken_out_of_any_text() {
    let pem = "a\n-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\nb\n";
    assert_eq!(text(pem), "a\n[redacted]\nb\n");
    for secret in [
        "token isthmus1.hunter2",
        "authorization: Bearer hunter2",
        "authorization: Basic hunter2",
        "https://me:hunter2@host/path",
        "login?password=hunter2&x=1",
        "PASSWORD: hunter2",
        "{\"a\":\"eyJhunter2.eyJ.sig\"}",
        "{\"key\":\"-----BEGIN EC PRIVATE KEY-----\\nhunter2\\n-----END EC PRIVATE KEY-----\\n\",\"b\":1}",
    ] {
        let clean = text(secret);
        assert!(!clean.contains("hunter2") && clean.contains(BLANK), "{secret} → {clean}");
    }
    for plain in ["2026-11-22 shop/web connected, 10.1.2.3:15008", "{\"a\": [1, \"b\"]}\n", "https://host/a@b", ""] {
        assert_eq!(text(plain), plain);
    }
}

#[test]
fn a_line_of_the_audit_log_says_which_field_and_not_what_was_in_it() {
    let field = json!({ "path": "spec.allow[0].headers", "from": { "x": "hunter2" }, "to": ["hunter3"] });
    let changes = json!([{ "resource": "ServicePolicy shop/orders", "how": "updated", "fields": [field] }]);
    let line = json!({ "seq": 7, "what": "changed", "operator": "bob", "changes": changes }).to_string();
    let told = audit_line(&line);
    assert!(told.contains("spec.allow[0].headers") && told.contains("bob") && !told.contains("hunter"), "{told}");
    assert_eq!(audit_line("not JSON, hunter2"), BLANK);
}
