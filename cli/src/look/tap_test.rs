use super::*;

#[test]
fn a_status_is_one_or_a_class() {
    assert_eq!(status("404"), Ok((404, 404)));
    assert_eq!(status("5xx"), Ok((500, 599)));
    assert_eq!(status("0"), Ok((0, 0)));
    for wrong in ["6xx", "0xx", "99", "600", "x", "", "40x"] {
        assert!(status(wrong).unwrap_err().contains("5xx"), "{wrong}");
    }
}

#[test]
fn a_line_says_who_asked_whom_for_what_and_where_the_time_went() {
    let passed = Passed {
        at_unix_ms: 1_700_000_000_123,
        direction: "outbound".into(),
        caller: "spiffe://corp/ns/shop/sa/web".into(),
        callee: "shop/orders".into(),
        port: 8080,
        protocol: "http".into(),
        method: "GET".into(),
        path: "/orders/7".into(),
        status: 403,
        duration_us: 5_200,
        link_us: 4_100,
        app_us: 600,
        reason: "not-allowed".into(),
        decision: "d-1".into(),
        ..Passed::default()
    };
    assert_eq!(
        in_words(&passed),
        "22:13:20.123 outbound shop/web -> shop/orders:8080 GET /orders/7 403 5 ms (link 4 ms, app 0.6 ms) \
         reason=not-allowed decision=d-1"
    );
    let tcp = Passed { protocol: "tcp".into(), to_callee: 10, from_callee: 20, reason: String::new(), ..passed };
    assert!(in_words(&tcp).contains("tcp 10 B to, 20 B from"));
}
