use super::*;

const NOW: i64 = 1_800_000_000_000;
const DAY: i64 = 86_400_000;

fn proxy(workload: &str) -> wire::Proxy {
    wire::Proxy {
        workload: workload.to_owned(),
        build_version: env!("CARGO_PKG_VERSION").to_owned(),
        connected: true,
        sent_version: 7,
        acknowledged_version: 7,
        last_seen_unix_ms: NOW,
        ..Default::default()
    }
}

fn well() -> Seen {
    let certificate = wire::Certificate {
        workload: "shop/web".to_owned(),
        not_after_unix_ms: NOW + DAY,
        connected: true,
        ..Default::default()
    };
    let root = wire::Root {
        fingerprint: "ab".repeat(32),
        role: "active".to_owned(),
        not_after_unix_ms: NOW + 3650 * DAY,
        issuing_not_after_unix_ms: NOW + 365 * DAY,
        self_rooted: true,
        der: Vec::new(),
    };
    Seen {
        here_ms: NOW + 1_000,
        certificates: wire::ListCertificatesResponse {
            certificates: vec![certificate],
            roots: Vec::new(),
            crypto_profile: String::new(),
            server_time_unix_ms: NOW,
        },
        proxies: vec![proxy("shop/web")],
        build: env!("CARGO_PKG_VERSION").to_owned(),
        rotation: wire::RotateResponse { phase: "settled".to_owned(), roots: vec![root], ..Default::default() },
        audit: wire::VerifyAuditResponse { lines: 9, ..Default::default() },
        revision: 7,
        store: None,
    }
}

fn said(seen: &Seen, what: &str) -> (Mark, String) {
    let found = findings(seen).into_iter().find(|finding| finding.what == what).unwrap();
    (found.mark, found.said)
}

#[test]
fn a_mesh_that_is_well_has_no_warning() {
    for finding in findings(&well()) {
        assert_eq!(finding.mark, Mark::Ok, "{finding:?}");
    }
    assert_eq!(said(&well(), "certificates").1, "1 in use, none late; the first ends in 1 d 0 h");
    assert_eq!(as_json(&findings(&well()))["status"], "ok");
}

#[test]
fn each_trouble_is_named_with_who() {
    let mut seen = well();
    seen.certificates.certificates[0].troubles = vec!["ends in 2 h 0 m and was not renewed".to_owned()];
    seen.certificates.certificates[0].clock_skew_ms = 60_000;
    seen.here_ms = NOW - 120_000;
    seen.proxies = ["shop/a", "shop/b", "shop/c"].map(proxy).to_vec();
    seen.proxies[0].acknowledged_version = 6;
    (seen.proxies[1].connected, seen.proxies[1].last_seen_unix_ms) = (false, NOW - 60_000);
    seen.proxies[2].last_error = "x/v9".to_owned();
    seen.proxies[2].build_version = "9.9.9".to_owned();
    seen.rotation.roots[0].issuing_not_after_unix_ms = NOW + 30 * DAY;
    seen.audit.fault = "line 4 is missing".to_owned();
    seen.store = Some("the disk is gone".to_owned());
    assert_eq!(
        said(&seen, "certificates"),
        (Mark::Warning, "shop/web: ends in 2 h 0 m and was not renewed".to_owned())
    );
    let (mark, clocks) = said(&seen, "clocks");
    assert!(
        mark == Mark::Warning
            && clocks.contains("here: clock skew 2 m 0 s")
            && clocks.contains("shop/web: clock skew 1 m 0 s")
    );
    let proxies = said(&seen, "proxies").1;
    for part in
        ["3 of 3", "shop/a has acknowledged 6 of 7", "shop/b offline for 1 m 0 s", "shop/c refused a push: x/v9"]
    {
        assert!(proxies.contains(part), "{part}: {proxies}");
    }
    assert!(said(&seen, "versions").1.contains("shop/c 9.9.9"));
    assert_eq!(said(&seen, "CA"), (Mark::Warning, "issuing CA abababab ends in 30 d 0 h".to_owned()));
    assert_eq!(said(&seen, "audit log"), (Mark::Broken, "line 4 is missing".to_owned()));
    assert_eq!(said(&seen, "store").0, Mark::Broken);
    assert_eq!(as_json(&findings(&seen))["status"], "broken");
}

#[test]
fn a_disk_that_is_full_is_broken_though_everything_can_be_read() {
    let mut seen = well();
    assert_eq!(said(&seen, "store"), (Mark::Ok, "reads, and nothing failed to be written".to_owned()));
    seen.audit.unwritable = "the audit log cannot be written: No space left on device".to_owned();
    let (mark, why) = said(&seen, "store");
    assert!(mark == Mark::Broken && why.contains("cannot be written: the audit log"), "{why}");
    assert_eq!(said(&seen, "audit log").0, Mark::Ok);
}

#[test]
fn many_are_counted() {
    let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    assert!(some_of(&many).ends_with("7; and 4 more"));
}

#[test]
fn an_identity_that_is_there_twice_or_not_on_record_is_a_warning() {
    for trouble in
        ["two machines have this identity: a is served, b was refused", "not on record: put back from a backup"]
    {
        let mut seen = well();
        seen.certificates.certificates[0].troubles = vec!["offline for 3 m 0 s".to_owned(), trouble.to_owned()];
        let found = findings(&seen).into_iter().find(|finding| finding.what == "identities").unwrap();
        assert_eq!((found.mark, found.said), (Mark::Warning, format!("shop/web: {trouble}")));
    }
    assert!(findings(&well()).iter().any(|finding| finding.what == "identities" && finding.mark == Mark::Ok));
}
