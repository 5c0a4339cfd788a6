use super::*;

#[test]
fn two_units_and_no_more() {
    let words = |seconds: u64| span_in_words(seconds * 1000);
    assert_eq!(words(9), "9 s");
    assert_eq!(words(17 * 60 + 3), "17 m 3 s");
    assert_eq!(words(3 * 3600 + 59), "3 h 0 m");
    assert_eq!(words(17 * 3600 + 20 * 60), "17 h 20 m");
    assert_eq!(words(52 * 3600), "2 d 4 h");
}

#[test]
fn skew_names_its_side() {
    assert_eq!(skew_in_words(1_023_000), "clock skew 17 m 3 s: this machine is ahead of the control plane");
    assert_eq!(skew_in_words(-1_023_999), "clock skew 17 m 3 s: this machine is behind the control plane");
    assert!(skew_in_words(i64::MIN).contains("behind"));
}
