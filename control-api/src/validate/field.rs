//! A cursor over one document: reads a field as what it should be, and reports every fault instead of the first.
//!
//! A reader never stops at a fault: it reports it to the shared [`Report`] and goes on with a neutral value; a document
//! with any fault is refused as a whole by [`super::parse`].

use super::asked::{Asked, Form};
use super::node::{Key, Node, Value};
use super::problem::{Problem, ResourceRef};
use std::cell::RefCell;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// Where the readers of one document leave what they find.
#[derive(Debug)]
pub struct Report {
    source: String,
    resource: RefCell<ResourceRef>,
    problems: RefCell<Vec<Problem>>,
    /// Only where schemas are made: what the readers ask for.
    asked: Option<RefCell<Asked>>,
}

impl Report {
    pub fn new(source: &str) -> Self {
        Report { source: source.to_string(), resource: RefCell::default(), problems: RefCell::default(), asked: None }
    }

    /// One that also notes what the readers ask for.
    pub fn noting(source: &str) -> Self {
        Report { asked: Some(RefCell::default()), ..Self::new(source) }
    }

    pub fn into_asked(self) -> Asked {
        self.asked.map(RefCell::into_inner).unwrap_or_default()
    }

    pub fn about(&self, resource: ResourceRef) {
        *self.resource.borrow_mut() = resource;
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    fn push(&self, at: (u32, u32), field: &str, reason: String) {
        self.problems.borrow_mut().push(Problem {
            source: self.source.clone(),
            line: at.0,
            column: at.1,
            resource: self.resource.borrow().clone(),
            field: field.to_string(),
            reason,
        });
    }
}

#[derive(Clone, Debug)]
pub struct Field<'a> {
    node: &'a Node,
    path: String,
    report: &'a Report,
}

impl<'a> Field<'a> {
    pub fn root(node: &'a Node, report: &'a Report) -> Self {
        Field { node, path: String::new(), report }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// That a reader asks for this value in this form.
    pub fn note(&self, form: Form) {
        if let Some(asked) = &self.report.asked {
            asked.borrow_mut().note(&self.path, form);
        }
    }

    /// Reports a fault of this value.
    pub fn fault(&self, reason: impl Into<String>) {
        self.report.push((self.node.line, self.node.column), &self.path, reason.into());
    }

    fn child(&self, name: &str, node: &'a Node) -> Field<'a> {
        let dot = if self.path.is_empty() { "" } else { "." };
        Field { node, path: format!("{}{dot}{name}", self.path), report: self.report }
    }

    /// The field of this name; a null counts as left out, as in Kubernetes.
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        let node = self.node.get(name)?;
        (!matches!(node.value, Value::Null)).then(|| self.child(name, node))
    }

    /// Refuses fields that have no value, here and below: `from:` above nothing but comments would mean anybody, and
    /// `until:` for ever.
    pub fn refuse_nulls(&self) {
        match &self.node.value {
            Value::Map(entries) => {
                for (key, node) in entries {
                    let child = self.child(&key.name, node);
                    if matches!(node.value, Value::Null) {
                        let reason = "says nothing; write a value, or leave the field out".to_string();
                        self.report.push((key.line, key.column), &child.path, reason);
                    }
                    child.refuse_nulls();
                }
            }
            Value::List(items) => {
                for (i, node) in items.iter().enumerate() {
                    Field { node, path: format!("{}[{i}]", self.path), report: self.report }.refuse_nulls();
                }
            }
            _ => {}
        }
    }

    /// The field of this name; its absence is a fault.
    pub fn need(&self, name: &str) -> Option<Field<'a>> {
        self.need_with(name, || format!("`{name}` is required here"))
    }

    /// The same, with what to do where it is absent.
    pub fn need_with(&self, name: &str, advice: impl FnOnce() -> String) -> Option<Field<'a>> {
        if let Some(asked) = &self.report.asked {
            asked.borrow_mut().need(&self.path, name);
        }
        let found = self.get(name);
        if found.is_none() && matches!(self.node.value, Value::Map(_)) {
            self.child(name, self.node).fault(format!("is missing; {}", advice()));
        }
        found
    }

    /// Refuses fields that are neither known nor on the list of those that are read over. A field that is not
    /// understood might be the one that narrows a rule, so it is never skipped in silence.
    pub fn only(&self, known: &[&str], read_over: &[&str]) {
        if let Some(asked) = &self.report.asked {
            asked.borrow_mut().only(&self.path, known, read_over);
        }
        for (key, _) in self.entries() {
            if known.contains(&key.name.as_str()) || read_over.contains(&key.name.as_str()) {
                continue;
            }
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{}", self.path, key.name);
            let reason = match nearest(&key.name, known) {
                Some(near) => format!("unknown field `{}`; did you mean `{near}`?", key.name),
                None => format!("unknown field `{}`; known here: {}", key.name, known.join(", ")),
            };
            self.report.push((key.line, key.column), &path, reason);
        }
    }

    /// The entries of a map; another kind of value is a fault.
    pub fn entries(&self) -> &'a [(Key, Node)] {
        match &self.node.value {
            Value::Map(entries) => entries,
            _ => {
                self.fault(format!("must be a map, not {}", self.node.kind()));
                &[]
            }
        }
    }

    /// The items of a list; another kind of value is a fault.
    pub fn items(&self) -> Vec<Field<'a>> {
        self.note(Form::List);
        let Value::List(items) = &self.node.value else {
            self.fault(format!("must be a list, not {}", self.node.kind()));
            return Vec::new();
        };
        let at = |(i, node)| Field { node, path: format!("{}[{i}]", self.path), report: self.report };
        items.iter().enumerate().map(at).collect()
    }

    pub fn is_empty_list(&self) -> bool {
        self.note(Form::NotEmpty);
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    pub fn text(&self) -> Option<&'a str> {
        self.note(Form::Text);
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                self.fault(format!("must be a text, not {}; write it in quotes", self.node.kind()));
                None
            }
            _ => {
                self.fault(format!("must be a text, not {}", self.node.kind()));
                None
            }
        }
    }

    /// A text that is not empty.
    pub fn word(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() {
            self.fault("must not be empty");
            return None;
        }
        Some(text)
    }

    pub fn words(&self) -> Vec<&'a str> {
        self.items().iter().filter_map(Field::word).collect()
    }

    pub fn flag(&self) -> Option<bool> {
        self.note(Form::Flag);
        match self.node.value {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.fault(format!("must be true or false, not {}", self.node.kind()));
                None
            }
        }
    }

    pub fn number(&self) -> Option<f64> {
        self.note(Form::Number);
        match self.node.value {
            Value::Int(int) => Some(int as f64),
            Value::Float(float) => Some(float),
            _ => {
                self.fault(format!("must be a number, not {}", self.node.kind()));
                None
            }
        }
    }

    pub fn port(&self) -> Option<u16> {
        self.note(Form::Port);
        match self.node.value {
            Value::Int(int @ 1..=65535) => u16::try_from(int).ok(),
            Value::Int(int) => {
                self.fault(format!("{int} is not a port: 1 to 65535"));
                None
            }
            _ => {
                let not = if let Value::Float(_) = self.node.value { "a fraction" } else { self.node.kind() };
                self.fault(format!("must be a port number, 1 to 65535, not {not}"));
                None
            }
        }
    }

    /// A text in a form that `T` can read; `what` says which.
    pub fn parsed<T: FromStr>(&self, what: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(format!("`{text}` is not {what}: {error}"));
                None
            }
        }
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().for_each(|(word, _)| self.note(Form::Word((*word).to_string())));
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = nearest(text, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        self.fault(format!("`{text}` is not one of {}{hint}", names.join(", ")));
        None
    }

    /// `24h`, `30m`, `30s`, `500ms`.
    pub fn duration(&self) -> Option<Duration> {
        self.note(Form::Duration);
        let text = self.text()?;
        let parsed = duration(text);
        if parsed.is_none() {
            self.fault(format!("`{text}` is not a duration; write a whole number and ms, s, m, h or d, as `24h`"));
        }
        parsed
    }
}

/// `24h`, `30m`, `30s`, `500ms`, `1d`.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let amount: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    amount.checked_mul(millis).map(Duration::from_millis)
}

/// The known word that is meant, if one is near: fewer than a third of the letters differ, or only the case does.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = word.to_ascii_lowercase();
    let (distance, best) = known.iter().map(|k| (distance(&lower, &k.to_ascii_lowercase()), *k)).min()?;
    (distance == 0
        || distance * 3 < best.len().max(word.len()) + 1 && best.len() > 2 && best.starts_with(char::is_alphabetic))
    .then_some(best)
}

/// Letters to add, drop, change or swap with the next to get from one word to the other, for words of one line.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut least = (row[j] + usize::from(ca != cb)).min(next[j] + 1).min(row[j + 1] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}
