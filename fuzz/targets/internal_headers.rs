//! Header lines `name:value`, cleaned: nothing internal is left; ports and times are read strictly.

use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_proxy::http::h1::Names;
use isthmus_proxy::http::headers::{is_internal, sanitize, sanitize_trailers};
use isthmus_proxy::http::internal::{Elapsed, PIN, PORT, parse_port, take_method, take_pin, take_port};

pub fn run(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        {
            headers.append(name, value);
        }
    }
    if let Ok(port) = take_port(&mut headers.clone()) {
        assert_ne!(port, 0);
        assert_eq!(headers.get_all(PORT).iter().count(), 1);
    }
    if let Ok(Some(id)) = take_pin(&mut headers.clone()) {
        assert_eq!(headers.get(PIN).map(HeaderValue::as_bytes), Some(format!("{id:016x}").as_bytes()));
    }
    assert_ne!(take_method(&mut headers.clone()), Ok(http::Method::CONNECT));
    if let Ok(names) = Names::take(&mut headers.clone()) {
        // Whatever spelling it gives for a name is that name.
        for name in headers.keys() {
            assert!(
                names
                    .spelling(name.as_str())
                    .is_none_or(|spelled| spelled.eq_ignore_ascii_case(name.as_str().as_bytes()))
            );
        }
    }
    let mut trailers = headers.clone();
    sanitize(&mut headers);
    sanitize_trailers(&mut trailers);
    assert!(headers.keys().chain(trailers.keys()).all(|name| !is_internal(name.as_str())));
    if let Some(port) = parse_port(bytes) {
        assert_eq!(port.to_string().as_bytes(), bytes);
    }
    if let Some(elapsed) = Elapsed::parse(bytes) {
        assert!(elapsed.app_us <= elapsed.total_us);
        assert_eq!(Elapsed::parse(elapsed.to_value().as_bytes()), Some(elapsed));
    }
}
