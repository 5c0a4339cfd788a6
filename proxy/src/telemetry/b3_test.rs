use http::HeaderMap;

use super::super::collector::Endpoint;
use super::super::metrics::Metrics;
use super::super::{ExportTarget, TraceContext, Tracer};
use super::*;

const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
const SPAN: &str = "e457b5a2e4d86bd1";
const PARENT_SPAN: &str = "05e3ac9a4f6e3b90";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn tracer(sampling: f64, exporting: bool) -> Tracer {
    let tracer = Tracer::new(&Metrics::new(1)).0;
    let endpoint = exporting.then(|| Endpoint::Unix("/nowhere".into()));
    tracer.configure(ExportTarget { endpoint, sampling, ..ExportTarget::default() });
    tracer
}

#[test]
fn the_single_header_is_read_as_its_authors_have_it() {
    let ids = format!("{TRACE}-{SPAN}");
    /// Ids?, sampled, debug.
    type Read = Option<(bool, Option<bool>, bool)>;
    let table: &[(String, Read)] = &[
        (ids.clone(), Some((true, None, false))),
        (format!("{ids}-1"), Some((true, Some(true), false))),
        (format!("{ids}-0"), Some((true, Some(false), false))),
        (format!("{ids}-d"), Some((true, Some(true), true))),
        (format!("{ids}-1-{PARENT_SPAN}"), Some((true, Some(true), false))),
        (format!("{}-{SPAN}-1", &TRACE[16..]), Some((true, Some(true), false))),
        ("0".to_owned(), Some((false, Some(false), false))),
        ("1".to_owned(), Some((false, Some(true), false))),
        ("d".to_owned(), Some((false, Some(true), true))),
        (String::new(), None),
        ("2".to_owned(), None),
        (format!("{ids}-"), None),
        (format!("{ids}-2"), None),
        (format!("{ids}-1-"), None),
        (format!("{ids}-1-{PARENT_SPAN}-1"), None),
        (format!("{ids}-1-{}", "0".repeat(16)), None),
        (format!("{}-{SPAN}", &TRACE[1..]), None),
        (format!("{}-{SPAN}", TRACE.to_uppercase()), None),
        (format!("{}-{SPAN}", "0".repeat(32)), None),
        (format!("{TRACE}-{}", "0".repeat(16)), None),
        (format!("{TRACE}-{SPAN}0"), None),
        (format!("{TRACE}_{SPAN}"), None),
    ];
    for (text, expected) in table {
        let seen = match read(&headers(&[("b3", text.as_str())])) {
            Said::Ids(ids) => Some((true, ids.sampled, ids.form.debug)),
            Said::Decision(sampled, form) => Some((false, Some(sampled), form.debug)),
            Said::Malformed => None,
            Said::Nothing => panic!("{text:?}"),
        };
        assert_eq!(seen, *expected, "{text:?}");
    }
    assert_eq!(read(&headers(&[("b3", "0"), ("b3", "1")])), Said::Malformed, "twice");
}

#[test]
fn the_several_headers_are_read_together() {
    let (trace, span) = (("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN));
    let sampled = |more: &[(&'static str, &str)]| {
        let mut all = vec![trace, span];
        all.extend_from_slice(more);
        match read(&headers(&all)) {
            Said::Ids(ids) => Some((ids.sampled, ids.form.debug)),
            _ => None,
        }
    };
    assert_eq!(sampled(&[]), Some((None, false)));
    assert_eq!(sampled(&[("x-b3-sampled", "1")]), Some((Some(true), false)));
    assert_eq!(sampled(&[("x-b3-sampled", "true")]), Some((Some(true), false)));
    assert_eq!(sampled(&[("x-b3-sampled", "0")]), Some((Some(false), false)));
    assert_eq!(sampled(&[("x-b3-flags", "1")]), Some((Some(true), true)));
    assert_eq!(sampled(&[("x-b3-parentspanid", PARENT_SPAN)]), Some((None, false)));
    for broken in [("x-b3-sampled", "yes"), ("x-b3-flags", "2"), ("x-b3-parentspanid", "1"), ("x-b3-traceid", TRACE)] {
        assert_eq!(sampled(&[broken]), None, "{broken:?}");
    }
    assert_eq!(read(&headers(&[trace])), Said::Malformed, "no span");
    assert_eq!(read(&headers(&[("x-b3-sampled", "0")])), Said::Decision(false, Form { single: false, debug: false }));
    assert_eq!(read(&headers(&[("accept", "*/*")])), Said::Nothing);
}

#[test]
fn a_trace_in_b3_is_continued_in_the_same_form_and_for_sidecars_as_traceparent() {
    for single in [true, false] {
        let one = format!("{TRACE}-{SPAN}-1-{PARENT_SPAN}");
        let mut sent = match single {
            true => headers(&[("b3", one.as_str())]),
            false => headers(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]),
        };
        let context = tracer(0.0, true).hop(&sent);
        assert!(context.sampled && context.parent.is_some_and(|parent| parent.to_string() == SPAN));
        context.child().write(&mut sent);
        let (Said::Ids(ids), Some(w3c)) = (read(&sent), TraceContext::parse(&sent)) else { panic!("{sent:?}") };
        assert_eq!((ids.trace_id, ids.span_id, ids.sampled), (w3c.trace_id, w3c.span_id, Some(true)));
        assert_eq!((ids.trace_id.to_string(), ids.form.single), (TRACE.to_owned(), single));
        assert!(sent.contains_key("b3") == single && sent.contains_key("x-b3-parentspanid") != single);
        // The next sidecar takes the traceparent, and the app behind it gets both again.
        let next = tracer(0.0, true).next_hop(&sent);
        assert_eq!(next.parent, Some(w3c.span_id));
        next.write(&mut sent);
        let Said::Ids(last) = read(&sent) else { panic!("{sent:?}") };
        assert_eq!((last.span_id, last.form.single), (next.span_id, single));
    }
}

#[test]
fn an_id_of_64_bits_goes_on_as_one() {
    let mut sent = headers(&[("b3", format!("{}-{SPAN}-1", &TRACE[16..]).as_str())]);
    let context = tracer(0.0, true).hop(&sent);
    context.write(&mut sent);
    assert_eq!(sent["b3"], format!("{}-{}-1-{SPAN}", &TRACE[16..], context.span_id).as_str());
}

#[test]
fn what_is_not_recorded_passes_as_it_came_and_what_is_malformed_does_not() {
    let unsampled = format!("{TRACE}-{SPAN}-0");
    for text in [unsampled.as_str(), "0"] {
        let mut sent = headers(&[("b3", text)]);
        let context = tracer(1.0, true).hop(&sent);
        assert!(!context.sampled, "{text}: the caller has decided against it");
        context.child().write(&mut sent);
        assert_eq!((sent["b3"].to_str().unwrap(), sent.len()), (text, 1));
    }
    for broken in ["garbage", ""] {
        let mut sent = headers(&[("b3", broken), ("x-b3-sampled", "1")]);
        tracer(0.0, true).hop(&sent.clone()).write(&mut sent);
        assert!(sent.is_empty(), "{sent:?}");
        let w3c = format!("00-{TRACE}-{SPAN}-00");
        let mut beside = headers(&[("traceparent", w3c.as_str()), ("b3", broken)]);
        tracer(1.0, true).hop(&beside.clone()).write(&mut beside);
        assert_eq!((beside["traceparent"].to_str().unwrap(), beside.len()), (w3c.as_str(), 1));
    }
}

#[test]
fn a_decision_that_is_left_to_us_is_made_once() {
    let deferred = || headers(&[("b3", format!("{TRACE}-{SPAN}").as_str())]);
    let mut sent = deferred();
    let context = tracer(0.0, true).hop(&sent);
    context.write(&mut sent);
    assert!(!context.sampled && sent["b3"] == format!("{TRACE}-{SPAN}-0").as_str(), "{sent:?}");
    let mut sent = deferred();
    let context = tracer(1.0, true).hop(&sent);
    context.write(&mut sent);
    assert!(context.sampled && sent["b3"] == format!("{TRACE}-{}-1-{SPAN}", context.span_id).as_str(), "{sent:?}");
}

#[test]
fn a_wish_to_record_without_ids_begins_a_trace() {
    for (wish, state) in [("1", "1"), ("d", "d")] {
        let mut sent = headers(&[("b3", wish)]);
        let context = tracer(0.0, true).hop(&sent);
        context.write(&mut sent);
        assert!(context.sampled, "whatever our ratio");
        assert_eq!(sent["b3"], format!("{}-{}-{state}", context.trace_id, context.span_id).as_str());
        assert!(!tracer(1.0, false).hop(&headers(&[("b3", wish)])).sampled, "nowhere to send it");
    }
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever came, what goes on is well-formed and says the same as the `traceparent` beside it.
        #[test]
        fn what_goes_on_is_well_formed(
            single in "[0-9a-fd-]{0,90}|\\PC{0,40}", trace in "[0-9a-f]{0,33}", span in "[0-9a-f]{14,17}", ratio in 0..2u8,
        ) {
            for sent in [
                headers(&[("b3", &single)].map(|(n, v)| (n, if v.is_ascii() { v.as_str() } else { "x" }))),
                headers(&[("x-b3-traceid", trace.as_str()), ("x-b3-spanid", span.as_str())]),
            ] {
                let mut onward = sent.clone();
                tracer(f64::from(ratio), true).hop(&sent).write(&mut onward);
                match (read(&onward), TraceContext::parse(&onward)) {
                    (Said::Ids(ids), Some(w3c)) => {
                        prop_assert_eq!((ids.trace_id, ids.span_id), (w3c.trace_id, w3c.span_id));
                        prop_assert_eq!(ids.sampled, Some(w3c.sampled));
                    }
                    (Said::Nothing, _) => {}
                    (Said::Ids(_) | Said::Decision(..), None) => prop_assert_eq!(onward, sent),
                    other => prop_assert!(false, "{:?}: {:?}", other, onward),
                }
            }
        }
    }
}
