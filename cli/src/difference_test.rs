//! Taking what is gone out and putting what is new in makes one text the other.

use super::*;
use proptest::prelude::*;

#[test]
fn a_changed_line_is_shown_with_its_neighbours() {
    let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
    let text = unified(before, &before.replace("f\n", "F\nF2\n"));
    assert_eq!(text, "  …\n  c\n  d\n  e\n- f\n+ F\n+ F2\n  g\n  h\n");
    assert_eq!(unified(before, before), "");
    assert_eq!(unified("", "x\n"), "+ x\n");
}

proptest! {
    #[test]
    fn both_texts_can_be_read_from_it(before in "([abc]\n){0,12}", after in "([abc]\n){0,12}") {
        let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
        let all = lines(&old, &new);
        let side = |keep: fn(&Line) -> bool| -> Vec<&str> {
            all.iter().filter(|line| keep(line)).map(|line| match line { Line::Same(l) | Line::Gone(l) | Line::New(l) => *l }).collect()
        };
        prop_assert_eq!(side(|line| !matches!(line, Line::New(_))), old);
        prop_assert_eq!(side(|line| !matches!(line, Line::Gone(_))), new);
    }
}
