use super::super::trace_context::TraceContext;
use super::*;

const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 20, 0, 5));

fn span(kind: Kind) -> Span {
    TraceContext::root(true).span(kind, "x", 1).unwrap()
}

fn text(span: &Span) -> Vec<String> {
    span.attributes.iter().map(|(name, value)| format!("{name}={}", value.to_text())).collect()
}

#[test]
fn a_request_is_described_as_the_conventions_say() {
    let uri: Uri = "http://u:p@orders.shop:81/a%20b?token=t&x=1&%74oken=u".parse().unwrap();
    let asked = AskedFor { method: &Method::GET, uri: &uri, http2: false, grpc: false };
    let mut server = span(Kind::Server);
    asked.describe(&mut server, TO);
    assert_eq!(asked.name(), "GET");
    assert_eq!(
        text(&server),
        [
            "http.request.method=GET",
            "network.protocol.version=1.1",
            "url.scheme=http",
            "url.path=/a%20b",
            "url.query=token=-&x=1&%74oken=-",
            "server.address=orders.shop",
        ]
    );
    let mut client = span(Kind::Client);
    asked.describe(&mut client, TO);
    assert!(text(&client).contains(&"url.full=http://orders.shop:81/a%20b?token=-&x=1&%74oken=-".to_owned()));
}

#[test]
fn who_is_asked_is_named_without_port_and_brackets() {
    for (authority, address) in [
        ("orders.shop", "orders.shop"),
        ("orders.shop:81", "orders.shop"),
        ("u:p@10.0.0.1:81", "10.0.0.1"),
        ("[fd00::1]", "fd00::1"),
        ("u:p@[fd00::1]:81", "fd00::1"),
    ] {
        let uri: Uri = format!("http://{authority}/").parse().unwrap();
        let mut span = span(Kind::Client);
        AskedFor { method: &Method::GET, uri: &uri, http2: false, grpc: false }.describe(&mut span, TO);
        assert_eq!(text(&span).last().unwrap(), &format!("server.address={address}"));
    }
}

#[test]
fn a_method_of_ones_own_names_no_span() {
    let method = Method::from_bytes(b"PURGE").unwrap();
    let asked = AskedFor { method: &method, uri: &Uri::from_static("/"), http2: true, grpc: false };
    let mut span = span(Kind::Server);
    asked.describe(&mut span, TO);
    assert_eq!(asked.name(), "HTTP");
    let told = text(&span);
    assert_eq!(told[..2], ["http.request.method=_OTHER", "http.request.method_original=PURGE"]);
    assert_eq!(told.last().unwrap(), "server.address=10.20.0.5", "the request names nobody");
}

#[test]
fn a_grpc_call_is_named_by_its_method() {
    let uri = Uri::from_static("http://orders/shop.Orders/Get");
    let asked = AskedFor { method: &Method::POST, uri: &uri, http2: true, grpc: true };
    let mut span = span(Kind::Client);
    asked.describe(&mut span, TO);
    assert_eq!(asked.name(), "shop.Orders/Get");
    let told = text(&span);
    assert!(
        told.contains(&"rpc.system.name=grpc".to_owned()) && told.contains(&"rpc.method=shop.Orders/Get".to_owned())
    );
    let odd = Uri::from_static("http://orders/nothing");
    assert_eq!(AskedFor { uri: &odd, ..asked }.name(), "POST");
}

#[test]
fn whose_fault_a_status_is() {
    for (kind, status, failed) in [
        (Kind::Server, 200, false),
        (Kind::Server, 404, false),
        (Kind::Server, 500, true),
        (Kind::Client, 302, false),
        (Kind::Client, 404, true),
        (Kind::Client, 503, true),
        (Kind::Internal, 403, true),
    ] {
        let mut span = span(kind);
        answered(&mut span, StatusCode::from_u16(status).unwrap(), None);
        assert_eq!(span.status == Status::Error(""), failed, "{kind:?} {status}");
        assert_eq!(text(&span).contains(&format!("error.type={status}")), failed, "{kind:?} {status}");
    }
    let mut denied = span(Kind::Server);
    answered(&mut denied, StatusCode::FORBIDDEN, Some("not-allowed"));
    assert_eq!((denied.status.clone(), text(&denied)[1].as_str()), (Status::Unset, "isthmus.reason=not-allowed"));
    let mut told = span(Kind::Client);
    answered(&mut told, StatusCode::FORBIDDEN, Some("not-allowed"));
    assert_eq!(told.status, Status::Error("not-allowed"));
    for (kind, code, status) in [
        (Kind::Server, "0", Status::Unset),
        (Kind::Server, "5", Status::Unset),
        (Kind::Server, "13", Status::Error("INTERNAL")),
        (Kind::Client, "5", Status::Error("NOT_FOUND")),
        (Kind::Client, "99", Status::Unset),
        (Kind::Client, "-1", Status::Unset),
    ] {
        let mut span = span(kind);
        grpc_answered(&mut span, code.as_bytes());
        assert_eq!(span.status, status, "{kind:?} {code}");
    }
}
