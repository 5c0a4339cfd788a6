use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn form(accept: &str) -> Form {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
    Form::wanted(&headers)
}

const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

#[test]
fn the_scraper_gets_what_it_likes_best_of_what_there_is() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, expected) in [
        (prometheus.to_owned(), Form::OpenMetrics),
        (format!("{PROTOBUF},{prometheus}"), Form::Protobuf),
        (format!("{PROTOBUF};q=0.3,{prometheus}"), Form::OpenMetrics),
        (format!("{PROTOBUF};q=0"), Form::Text),
        (PROTOBUF.replace("delimited", "text"), Form::Text),
        (PROTOBUF.replace("MetricFamily", "Other"), Form::Text),
        ("Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8".to_owned(), Form::OpenMetrics),
        ("application/openmetrics-text; version=0.0.1".to_owned(), Form::Text),
        ("application/openmetrics-text".to_owned(), Form::OpenMetrics),
        ("text/plain, application/openmetrics-text".to_owned(), Form::Text),
        ("*/*".to_owned(), Form::Text),
        ("image/png".to_owned(), Form::Text),
        ("application/openmetrics-text;q=nan, text/plain;q=0.1".to_owned(), Form::Text),
        ("application/openmetrics-text;q=2".to_owned(), Form::Text),
        (String::new(), Form::Text),
    ] {
        assert_eq!(form(&accept), expected, "{accept}");
    }
    assert_eq!(Form::wanted(&HeaderMap::new()), Form::Text);
}

#[test]
fn what_is_too_long_or_said_twice_is_not_read() {
    let padded = |length: usize| format!("application/openmetrics-text{}", " ".repeat(length));
    assert_eq!(form(&padded(100)), Form::OpenMetrics);
    assert_eq!(form(&padded(LONGEST)), Form::Text);
    let late = "image/png,".repeat(MOST_RANGES) + "application/openmetrics-text";
    assert_eq!(form(&late), Form::Text);
    let mut headers = HeaderMap::new();
    for _ in 0..2 {
        headers.append(ACCEPT, HeaderValue::from_static("application/openmetrics-text"));
    }
    assert_eq!(Form::wanted(&headers), Form::Text);
}

proptest! {
    /// Nothing that a scraper says is more than one of three answers, and a weight of none is never taken.
    #[test]
    fn whatever_is_asked_one_form_is_the_answer(noise in "[ -~]{0,80}", more in "[;,=q0-9.* /]{0,40}") {
        let accept = format!("{noise},{more}");
        let _ = form(&accept);
        prop_assert_eq!(form(&format!("application/openmetrics-text;q=0,{}", "image/png;q=1")), Form::Text);
    }
}
