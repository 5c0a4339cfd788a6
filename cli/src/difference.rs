//! What differs between two texts, line by line, as `diff -u` shows it.

/// Lines around a change that are shown with it.
const AROUND: usize = 3;
/// Beyond this many pairs of lines, the middle is shown as replaced: the table would cost more than it tells.
const MAX_TABLE: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Line<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The change as lines that begin with ` `, `-` or `+`; far from any change, `…` stands for what stays.
pub(crate) fn unified(before: &str, after: &str) -> String {
    let lines = lines(&before.lines().collect::<Vec<_>>(), &after.lines().collect::<Vec<_>>());
    let is_near = |at: usize| {
        let from = at.saturating_sub(AROUND);
        lines[from..(at + AROUND + 1).min(lines.len())].iter().any(|line| !matches!(line, Line::Same(_)))
    };
    let mut text = String::new();
    let mut skipped = false;
    for (at, line) in lines.iter().enumerate() {
        if !is_near(at) {
            skipped = true;
            continue;
        }
        if std::mem::take(&mut skipped) {
            text.push_str("  …\n");
        }
        let (mark, words) = match line {
            Line::Same(words) => (' ', words),
            Line::Gone(words) => ('-', words),
            Line::New(words) => ('+', words),
        };
        text.push_str(&format!("{mark} {words}\n"));
    }
    text
}

/// The longest common part stays; between, what is gone comes before what is new.
fn lines<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (rest_before, rest_after) = (&before[head..], &after[head..]);
    let tail = rest_before.iter().rev().zip(rest_after.iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle_before, middle_after) =
        (&rest_before[..rest_before.len() - tail], &rest_after[..rest_after.len() - tail]);
    let mut all: Vec<Line> = before[..head].iter().map(|line| Line::Same(line)).collect();
    all.extend(middle(middle_before, middle_after));
    all.extend(rest_before[rest_before.len() - tail..].iter().map(|line| Line::Same(line)));
    all
}

fn middle<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<Line<'a>> {
    let (rows, columns) = (before.len(), after.len());
    if rows * columns > MAX_TABLE {
        return before.iter().map(|l| Line::Gone(l)).chain(after.iter().map(|l| Line::New(l))).collect();
    }
    // lengths[i][j]: of the longest common part of before[i..] and after[j..].
    let mut lengths = vec![vec![0u32; columns + 1]; rows + 1];
    for i in (0..rows).rev() {
        for j in (0..columns).rev() {
            lengths[i][j] = match before[i] == after[j] {
                true => lengths[i + 1][j + 1] + 1,
                false => lengths[i + 1][j].max(lengths[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    while i < rows || j < columns {
        if i < rows && j < columns && before[i] == after[j] {
            all.push(Line::Same(before[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < rows && (j == columns || lengths[i + 1][j] >= lengths[i][j + 1]) {
            all.push(Line::Gone(before[i]));
            i += 1;
        } else {
            all.push(Line::New(after[j]));
            j += 1;
        }
    }
    all
}

#[cfg(test)]
#[path = "difference_test.rs"]
mod difference_test;
