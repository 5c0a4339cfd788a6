use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000_000;

#[test]
fn a_person_reads_how_long_it_can_go_on() {
    let status = json!({
        "status": "ready", "because": null, "warnings": [], "version": "0.1.0", "nowUnixMs": NOW,
        "workload": "shop/orders", "identity": "spiffe://shop.example/ns/shop/sa/orders",
        "certificate": { "serial": "4f0a", "notAfterUnixMs": NOW + 62_400_000, "nextRenewalUnixMs": NOW + 19_200_000 },
        "controlPlane": { "address": "10.10.0.2:15012", "connected": true, "sinceUnixMs": NOW - 63_000, "build": "0.1.0" },
        "withoutControlPlane": { "seconds": 62_400, "words": "17 h 20 m", "because": "the certificate ends" },
        "snapshot": { "version": 12, "from": "control-plane" },
        "kept": { "version": 12, "error": null, "protection": "plain files with mode 0600: sealing is turned off" },
        "capture": { "configured": "auto", "inForce": "nftables" },
    });
    let text = text(&status);
    for line in [
        "status         ready\n",
        "certificate    ends in 17 h 20 m (2027-01-16T01:20:00Z); renewed in 5 h 20 m; serial 4f0a\n",
        "control plane  10.10.0.2:15012, connected for 1 m 3 s, version 0.1.0\n",
        "alone          can run 17 h 20 m without the control plane, until the certificate ends\n",
        "kept           version 12 on disk; plain files",
        "capture        nftables (capture.mode: auto)\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let status = json!({
        "status": "not-ready", "because": "not-ready: no certificate yet", "warnings": ["look"], "nowUnixMs": NOW,
        "certificate": null, "controlPlane": { "address": "c:15012", "connected": false, "sinceUnixMs": NOW - 5_000,
        "lastError": { "atUnixMs": NOW, "what": "refused" } }, "withoutControlPlane": null,
        "snapshot": { "version": 0, "from": "nothing" }, "kept": { "protection": "" }, "capture": { "configured": "none" },
    });
    let text = text(&status);
    for line in [
        "status         not-ready (not-ready: no certificate yet)\n",
        "certificate    none yet\n",
        "control plane  c:15012, not connected for 5 s: refused\n",
        "alone          serves nothing without the control plane now\n",
        "kept           nothing: there is no state directory\n",
        "capture        none\n",
        "warning: look\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn an_answer_is_taken_only_from_a_proxy() {
    assert!(parse("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ready\"}").is_some());
    for answer in
        ["", "HTTP/1.1 404 Not Found\r\n\r\n{\"status\":\"ready\"}", "HTTP/1.1 200 OK\r\n\r\n{}", "x\r\n\r\nx"]
    {
        assert!(parse(answer).is_none(), "{answer}");
    }
}

#[test]
fn nobody_there_is_said_with_what_to_do() {
    let failure = ask(Path::new("/nowhere/proxy.sock")).unwrap_err();
    assert!(failure.text().contains("/nowhere/proxy.sock") && failure.text().contains("--socket"));
}
