use super::{CpuSeconds, parse};

#[test]
fn times_are_found_behind_a_name_with_parentheses() {
    let stat = "77 (a) b) c) S 1 77 77 0 -1 4194304 100 0 0 0 250 125 7 8 20 0 1 0 5 6 7";
    assert_eq!(parse(stat, 100), Some(CpuSeconds { user: 2.5, system: 1.25 }));
}

#[test]
fn a_short_line_is_no_time() {
    assert_eq!(parse("77 (a) S 1 2 3", 100), None);
}
