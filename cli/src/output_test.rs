use super::*;

#[test]
fn columns_line_up_and_lines_end_without_blanks() {
    let rows = vec![vec!["shop/orders".to_owned(), "in force".to_owned()], vec!["a".to_owned(), "-".to_owned()]];
    assert_eq!(table(&["WORKLOAD", "STATE"], &rows), "WORKLOAD     STATE\nshop/orders  in force\na            -\n");
}

#[test]
fn the_epoch_is_never_and_not_1970() {
    assert_eq!(when(0), "-");
    assert_eq!(when(1_795_300_000_000), "2026-11-21T22:26:40Z");
}
