use http::{HeaderMap, HeaderValue};

use super::*;

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(parents: &[&str], states: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for parent in parents {
        headers.append("traceparent", HeaderValue::from_str(parent).unwrap());
    }
    for state in states {
        headers.append("tracestate", HeaderValue::from_str(state).unwrap());
    }
    headers
}

#[test]
fn a_well_formed_parent_is_continued() {
    let context = TraceContext::parse(&headers(&[GOOD], &["vendor=a,b@c=d"])).unwrap();
    assert_eq!(context.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context.span_id.to_string(), "00f067aa0ba902b7");
    assert!(context.sampled);
    let child = context.child();
    assert_eq!(child.parent, Some(context.span_id));
    assert_ne!(child.span_id, context.span_id);
    let mut out = headers(&["garbage", GOOD], &["x"]);
    child.write(&mut out);
    assert_eq!(out.get_all("traceparent").iter().count(), 1);
    assert_eq!(out["traceparent"], format!("00-{}-{}-01", context.trace_id, child.span_id).as_str());
    assert_eq!(out["tracestate"], "vendor=a,b@c=d");
}

/// What breaks which rule of section 3.2.
const BROKEN: &[(&str, &str)] = &[
    ("nothing", ""),
    ("version ff", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("capital in version", "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("one-digit version", "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("zero trace id", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
    ("zero parent id", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
    ("capitals in trace id", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
    ("capitals in parent id", "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01"),
    ("illegal character", "00-4bf92f3577b34da6a3ce929d0e0e473.-00f067aa0ba902b7-01"),
    ("short trace id", "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01"),
    ("long trace id", "00-4bf92f3577b34da6a3ce929d0e0e47361-00f067aa0ba902b7-01"),
    ("short flags", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"),
    ("illegal flags", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.0"),
    ("no dash", "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("more after 00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what"),
    ("a dash after 00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-"),
    ("later, glued", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01what"),
    ("a blank in front", " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

#[test]
fn parents_that_break_a_rule_are_not_continued() {
    for (what, parent) in BROKEN {
        assert_eq!(TraceContext::parse(&headers(&[parent], &["a=b"])), None, "{what}");
    }
    assert_eq!(TraceContext::parse(&headers(&[GOOD, GOOD], &[])), None, "two headers");
    assert_eq!(TraceContext::parse(&headers(&[], &["a=b"])), None, "tracestate alone");
}

#[test]
fn later_versions_are_read_as_far_as_they_are_known() {
    for parent in [
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
    ] {
        let context = TraceContext::parse(&headers(&[parent], &[])).unwrap();
        let mut out = HeaderMap::new();
        context.write(&mut out);
        assert_eq!(out["traceparent"], GOOD, "sent on as the version that we know");
    }
}

#[test]
fn flags_other_than_sampled_and_random_are_cleared() {
    for (flags, written) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00")] {
        let context = TraceContext::parse(&headers(&[&format!("{}{flags}", &GOOD[..53])], &[])).unwrap();
        let mut out = HeaderMap::new();
        context.write(&mut out);
        assert_eq!(out["traceparent"].to_str().unwrap()[53..], *written, "{flags}");
    }
}

#[test]
fn tracestate_is_passed_on_as_it_came_or_not_at_all() {
    let key_256 = format!("a{}=1", "b".repeat(255));
    let key_257 = format!("a{}=1", "b".repeat(256));
    let value_256 = format!("a={}", "v".repeat(256));
    let value_257 = format!("a={}", "v".repeat(257));
    let tenant = |tenant: usize, system: usize| format!("{}@{}=1", "t".repeat(tenant), "s".repeat(system));
    let list = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    let table: &[(&str, bool)] = &[
        ("foo=1", true),
        ("foo=1,bar=2", true),
        ("foo=1 , \t bar=2", true),
        ("foo=1,,bar=2,", true),
        ("foo= with blank", true),
        ("a-_*/0=1", true),
        ("0tenant@system=1", true),
        (&key_256, true),
        (&key_257, false),
        (&value_256, true),
        (&value_257, false),
        (&tenant(241, 14), true),
        (&tenant(242, 14), false),
        (&tenant(241, 15), false),
        (&list(32), true),
        (&list(33), false),
        ("foo=1,foo=2", false),
        ("foo", false),
        ("foo=", false),
        ("=1", false),
        ("Foo=1", false),
        ("0foo=1", false),
        ("foo =1", false),
        ("foo@=1", false),
        ("@foo=1", false),
        ("a@b@c=1", false),
        ("foo=1=2", false),
        ("foo=b\tar", false),
        ("", false),
        (" , ,", false),
    ];
    for (state, kept) in table {
        let context = TraceContext::parse(&headers(&[GOOD], &[state])).unwrap();
        assert_eq!(context.tracestate.is_some(), *kept, "{state:?}");
        let mut out = headers(&[], &["left=over"]);
        context.write(&mut out);
        assert_eq!(out.get("tracestate").map(|v| v.to_str().unwrap()), kept.then_some(*state), "{state:?}");
    }
}

#[test]
fn several_tracestate_headers_are_one_list() {
    let context = TraceContext::parse(&headers(&[GOOD], &["a=1", "b=2,c=3"])).unwrap();
    assert_eq!(context.tracestate.unwrap(), "a=1,b=2,c=3");
    assert_eq!(TraceContext::parse(&headers(&[GOOD], &["a=1", "a=2"])).unwrap().tracestate, None);
}

#[test]
fn a_new_trace_says_that_its_id_is_random() {
    let mut out = HeaderMap::new();
    TraceContext::root(true).write(&mut out);
    assert!(out["traceparent"].to_str().unwrap().ends_with("-03"));
    assert!(TraceContext::root(false).span(Kind::Client, "outbound", 1).is_none());
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever came, what is sent on is well-formed: it parses, as the same context.
        #[test]
        fn are_continued_well_formed_or_not_at_all(parent in "[0-9a-f-]{50,60}|\\PC{0,80}", state in "[a-z0-9=,@ ]{0,64}|\\PC{0,64}") {
            let mut came = HeaderMap::new();
            for (name, text) in [("traceparent", &parent), ("tracestate", &state)] {
                if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                    came.insert(name, value);
                }
            }
            let context = TraceContext::parse(&came).unwrap_or_else(|| TraceContext::root(true));
            let mut passed = came.clone();
            if let Some(context) = TraceContext::parse(&came) {
                context.clone().passed_on(&came).write(&mut passed);
                prop_assert_eq!(TraceContext::parse(&passed), Some(context));
            } else {
                TraceContext::none_of(&came).write(&mut passed);
                prop_assert!(passed.is_empty());
            }
            let mut sent = came;
            context.write(&mut sent);
            prop_assert_eq!(TraceContext::parse(&sent), Some(context));
        }
    }
}
