use super::super::span::Kind;
use super::super::trace_context::TraceContext;
use super::*;

fn said(prepared: &Prepared<u8, usize>, world: u8, of: usize, text: &str) -> String {
    let mut span = TraceContext::root(true).span(Kind::Client, "x", 1).unwrap();
    span.set("before", 1i64);
    prepared.say(&mut span, world, of, |block| block.set("of", text));
    span.attributes.iter().map(|(name, value)| format!("{name}={} ", value.to_text())).collect()
}

#[test]
fn a_block_is_written_once_for_each_world() {
    let prepared = Prepared::default();
    assert_eq!(said(&prepared, 1, 7, "first"), "before=1 of=first ");
    assert_eq!(said(&prepared, 1, 7, "not asked"), "before=1 of=first ");
    assert_eq!(said(&prepared, 1, 8, "another"), "before=1 of=another ");
    assert_eq!(said(&prepared, 2, 7, "asked again"), "before=1 of=asked again ");
    assert_eq!(said(&prepared, 1, 8, "and again"), "before=1 of=and again ");
}

#[test]
fn so_many_are_known_and_no_more() {
    let prepared = Prepared::default();
    for of in 0..3 * MOST {
        assert_eq!(said(&prepared, 1, of, "x"), "before=1 of=x ");
        assert!(prepared.known.borrow().1.len() <= MOST);
    }
}
