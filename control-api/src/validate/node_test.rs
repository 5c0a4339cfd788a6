//! Documents that are no YAML, beside others.

use super::*;

#[test]
fn a_document_that_is_no_yaml_hides_no_other_and_lines_are_those_of_the_file() {
    let text = "a: 1\n---\nb: [\n---\nc:\n- d: 2\n--- # not closed\ne: \"f\n---\ng: 3\n";
    let (nodes, faults) = parse(text);
    let lines: Vec<u32> = nodes.iter().map(|node| node.line).collect();
    assert_eq!((lines, faults.len()), (vec![1, 5, 10], 2), "{faults:?}");
    assert!(faults[0].line == 3 && (7..=9).contains(&faults[1].line), "{faults:?}");
    let Some(Value::List(inner)) = nodes[1].get("c").map(|node| &node.value) else { panic!("{nodes:?}") };
    let Value::Map(entries) = &inner[0].value else { panic!("{inner:?}") };
    assert_eq!((inner[0].line, entries[0].0.line, entries[0].0.column), (6, 6, 3));
}

#[test]
fn what_stands_before_a_mark_is_told_with_the_whole() {
    let (nodes, faults) = parse("%YAML 1.2\n---\na: 1\n...\n---\nb: [\n");
    assert_eq!((nodes.len(), faults.len()), (0, 1), "{faults:?}");
}

#[test]
fn a_bomb_beside_a_document_that_is_no_yaml_is_not_opened() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let before = vec![format!("*a{}", level - 1); 8].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let (nodes, faults) = parse(&format!("{bomb}---\na: [\n---\n{bomb}"));
    assert!(nodes.is_empty() && !faults.is_empty(), "{faults:?}");
}
