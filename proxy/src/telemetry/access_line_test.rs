use super::*;

fn entry<'a>(method: &'a Method, uri: &'a Uri) -> Entry<'a> {
    Entry {
        direction: Direction::Inbound,
        http2: false,
        method,
        uri,
        status: 403,
        reason: Some("not-allowed"),
        decision: Some("0123456789abcdef"),
        trace: Some(TraceId([0xab; 16])),
        caller: Some("10.10.1.11".parse().unwrap()),
        peer: Some("spiffe://shop.example/ns/shop/sa/batch"),
        destination: "10.20.1.10:8080".parse().unwrap(),
        total: Duration::from_micros(1_500),
        app: Some(Duration::from_micros(1_000)),
        link: Some(Duration::from_micros(300)),
    }
}

const AT_MS: u64 = 1_795_339_800_123;

fn line(template: &str, uri: &str, hidden: &[&str]) -> String {
    let hidden: Vec<String> = hidden.iter().map(|&name| name.to_owned()).collect();
    let format = if template == "json" { LineFormat::Json } else { LineFormat::parse(template).unwrap() };
    format.write(&entry(&Method::GET, &uri.parse().unwrap()), AT_MS, &hidden)
}

#[test]
fn json_has_every_field_that_is_known() {
    let line = line("json", "http://orders.shop/a?b=c", &[]);
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(line.ends_with("}\n") && line.lines().count() == 1);
    let expected = serde_json::json!({
        "time": "2026-11-22T09:30:00.123Z", "direction": "inbound", "protocol": "HTTP/1", "method": "GET",
        "host": "orders.shop", "path": "/a?b=c", "status": 403, "reason": "not-allowed", "decision": "0123456789abcdef",
        "trace": "abababababababababababababababab", "caller": "10.10.1.11",
        "peer": "spiffe://shop.example/ns/shop/sa/batch", "destination": "10.20.1.10:8080",
        "total_us": 1500, "app_us": 1000, "link_us": 300, "proxy_us": 200,
    });
    assert_eq!(read, expected);
    assert_eq!(read.as_object().unwrap().len(), Field::ALL.len());
}

#[test]
fn a_template_is_followed_and_one_that_makes_no_sense_is_refused() {
    let text = line("{method} {path} -> {status} [{reason}] {link_us}us", "/a%20b?q", &[]);
    assert_eq!(text, "GET /a%20b?q -> 403 [not-allowed] 300us\n");
    let (method, uri) = (Method::GET, "/".parse().unwrap());
    let nobody = Entry { reason: None, peer: None, app: None, ..entry(&method, &uri) };
    let format = LineFormat::parse("{reason} {peer} {app_us} {proxy_us} {host}").unwrap();
    assert_eq!(format.write(&nobody, AT_MS, &[]), "- - - - -\n");
    for (template, why) in [
        ("no field", "no field in it"),
        ("{status", "without }"),
        ("{authorization}", "is no field"),
        ("{}", "is no field"),
        ("{status}\n{path}", "more than one line"),
    ] {
        assert!(LineFormat::parse(template).unwrap_err().contains(why), "{template:?}");
    }
}

#[test]
fn secrets_in_queries_are_hidden_also_where_their_names_are_disguised() {
    let path = |query: &str, hidden: &[&str]| line("{path}", &format!("/a?{query}"), hidden).trim_end().to_owned();
    assert_eq!(path("q=1&token=abc&x=2", &[]), "/a?q=1&token=-&x=2");
    assert_eq!(path("%74oken=abc&ACCESS_TOKEN=d&q=%20", &[]), "/a?%74oken=-&ACCESS_TOKEN=-&q=%20");
    assert_eq!(path("session=abc&token=", &["Session"]), "/a?session=-&token=-");
    assert_eq!(path("a=1&b=2&c", &["*"]), "/a?a=-&b=-&c");
    for name in SECRET {
        assert!(!path(&format!("{name}=hush"), &[]).contains("hush"), "{name}");
    }
}

#[test]
fn nothing_that_a_caller_sends_makes_a_second_field_or_line() {
    let (method, uri) = (Method::GET, "/".parse().unwrap());
    let forged = || Entry { peer: Some("a\" b\nc\\d\u{e9}\u{7f}"), ..entry(&method, &uri) };
    let text = LineFormat::parse("\"{peer}\" {status}").unwrap().write(&forged(), AT_MS, &[]);
    assert_eq!(text, "\"a\\x22\\x20b\\x0ac\\x5cd\\xc3\\xa9\\x7f\" 403\n");
    let json = LineFormat::Json.write(&forged(), AT_MS, &[]);
    assert_eq!(json.lines().count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["peer"], "a\" b\nc\\d\u{e9}\u{7f}");
    let long = line("{path}", &format!("/{}", "x".repeat(30_000)), &[]);
    assert!(long.len() < MAX_TEXT + 10 && long.ends_with("...\n"), "{}", long.len());
}

#[test]
fn times_are_those_of_the_calendar() {
    for (ms, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_251_200_001, "2024-03-01T00:00:00.001Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (AT_MS, "2026-11-22T09:30:00.123Z"),
    ] {
        assert_eq!(rfc3339(ms), text);
    }
}

mod any_request {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_one_line_without_its_secrets(path in "/[!-~]{0,60}", secret in "[a-zA-Z0-9]{12}", peer in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let Ok(uri) = format!("{}?token={secret}", path.replace(['?', '#'], "_")).parse::<Uri>() else { return Ok(()) };
            let method = Method::POST;
            for format in [LineFormat::Json, LineFormat::parse("{path} {peer} {status}").unwrap()] {
                let line = format.write(&Entry { peer: Some(&peer), ..entry(&method, &uri) }, AT_MS, &[]);
                prop_assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line:?}");
                prop_assert!(!line.contains(&secret) || path.contains(&secret) || peer.contains(&secret));
                match format {
                    LineFormat::Json => prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok()),
                    LineFormat::Text(_) => prop_assert_eq!(line.split(' ').count(), 3),
                }
            }
        }
    }
}
