use super::*;

#[test]
fn durations_have_a_unit() {
    assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
    assert_eq!(parse("7d"), Ok(Duration::from_secs(7 * 86_400)));
    for wrong in ["", "5", "s", "0s", "-1s", "1w", "1.5h", "99999999999999999999s", "999999999999999999d", "1 s"] {
        assert!(parse(wrong).is_err(), "{wrong:?} was taken for a duration");
    }
}

#[test]
fn what_was_measured_keeps_its_digits() {
    assert_eq!(show_us(420), "0.4 ms");
    assert_eq!(show_us(41_300), "41 ms");
    assert_eq!(show_us(12_000_000), "12 s");
}
