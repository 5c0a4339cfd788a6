use super::super::text_form::{self, Text};
use super::*;

#[test]
fn a_name_with_parentheses_and_blanks_hides_no_field() {
    let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1200 999 10 18446744073709551615";
    let times = Times::read(stat).unwrap();
    let ticks = clock_ticks_per_second() as f64;
    assert_eq!((times.cpu, times.started), (300.0 / ticks, 1200.0 / ticks));
    assert!(Times::read("7 (cut").is_none() && Times::read("").is_none());
}

#[test]
fn this_process_is_on_the_page() {
    let mut page = Page::default();
    render(&mut page);
    let text = text_form::write(&page, Text::Prometheus);
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b' ');
        line.unwrap_or_else(|| panic!("{name}\n{text}"))[name.len() + 1..].parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 100_000.0);
    assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
    assert!(value("process_start_time_seconds") > 1_700_000_000.0);
    assert!(value("process_cpu_seconds_total") >= 0.0);
}
