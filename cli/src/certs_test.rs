use super::*;

#[test]
fn a_table_says_how_long_each_one_lasts_and_what_is_wrong() {
    let certificate = wire::Certificate {
        spiffe_id: "spiffe://shop.example/ns/isthmus-system/sa/control".into(),
        serial: "ab01".into(),
        root: "9f86d081884c".into(),
        issuer: "c0ffee00c0ffee00".into(),
        not_after_unix_ms: 62_400_000,
        renewal_unix_ms: 1,
        troubles: vec!["offline for 3 h 0 m".into()],
        ..Default::default()
    };
    let listed = wire::ListCertificatesResponse {
        certificates: vec![certificate],
        roots: vec![],
        server_time_unix_ms: 2,
        crypto_profile: String::new(),
    };
    let text = all_text(&listed);
    let line = text.lines().nth(1).unwrap();
    assert_eq!(line, "isthmus-system/control  ab01    17 h 19 m  due        c0ffee00  9f86d081  offline for 3 h 0 m");
}
