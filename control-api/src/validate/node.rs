//! YAML as a tree that remembers where each value was written.
//!
//! The first stage of every document, from a file or the admin API. serde's derived types stop at the first fault and
//! lose its place; this tree lets [`super::field`] name every fault at once, with line and column. It refuses what is
//! not YAML, duplicate keys, and documents beyond the budget (an alias bomb is a fault, not an outage).

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// One value and where it was written. Line and column count from 1; 0: not from text.
#[derive(Clone, Debug)]
pub struct Node {
    pub line: u32,
    pub column: u32,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub line: u32,
    pub column: u32,
}

/// A text that is not YAML, and where it stops being so.
#[derive(Clone, Debug)]
pub struct SyntaxError {
    pub line: u32,
    pub column: u32,
    pub reason: String,
    /// It is beyond the budget: nobody looks at it again in pieces.
    too_much: bool,
}

/// 64 MiB of small documents in one file; what one apply may hold bounds it before.
const MOST_NODES: usize = 20_000_000;

/// Parses every document of a text; empty documents are skipped. One that is not YAML is a fault of its own, and does not
/// hide what is wrong with the others.
pub fn parse(yaml: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    match read(yaml, MOST_NODES) {
        Ok(nodes) => (nodes, Vec::new()),
        // Directives (`%YAML`) stand before the mark of the document that they are about.
        Err(error) if error.too_much || yaml.lines().any(|line| line.starts_with('%')) => (Vec::new(), vec![error]),
        Err(error) => match one_by_one(yaml) {
            (nodes, faults) if faults.is_empty() => (nodes, vec![error]),
            both => both,
        },
    }
}

fn one_by_one(yaml: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    let (mut nodes, mut faults) = (Vec::new(), Vec::new());
    for (before, document) in documents(yaml) {
        // Fewer nodes than bytes, unless aliases multiply them: so all of these together cost no more than their text.
        match read(document, document.len()) {
            Ok(some) => nodes.extend(some.into_iter().map(|node| node.lower(before))),
            Err(error) if error.too_much => {}
            Err(error) => faults.push(SyntaxError { line: error.line.max(1).saturating_add(before), ..error }),
        }
    }
    (nodes, faults)
}

/// Each document, and how many lines come before it. `---` at the beginning of a line ends whatever was open (YAML 1.2.2,
/// 9.1.2), a quoted text included.
fn documents(yaml: &str) -> Vec<(u32, &str)> {
    let (mut found, mut begin, mut begin_line, mut at) = (Vec::new(), 0, 0, 0);
    for (line, text) in (0..).zip(yaml.split_inclusive('\n')) {
        let mark =
            text.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if mark && at > begin {
            found.push((begin_line, &yaml[begin..at]));
            (begin, begin_line) = (at, line);
        }
        at += text.len();
    }
    found.push((begin_line, &yaml[begin..]));
    found
}

fn read(yaml: &str, most_nodes: usize) -> Result<Vec<Node>, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MOST_NODES,
            max_nodes: most_nodes,
            max_documents: 200_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        strict_booleans: true,
    };
    serde_saphyr::from_multiple_with_options::<Node>(yaml, options).map_err(|error| {
        let (at, plain) = (error.location(), error.without_snippet());
        SyntaxError {
            line: at.map_or(0, |at| narrow(at.line())),
            column: at.map_or(0, |at| narrow(at.column())),
            reason: first_line(&plain.to_string()),
            too_much: matches!(plain, serde_saphyr::Error::Budget { .. }),
        }
    })
}

/// A tree without places, from what the store holds.
pub fn from_json(json: &serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(entries) => Value::Map(
            entries
                .iter()
                .map(|(name, value)| {
                    let name = name.clone();
                    (Key { name, line: 0, column: 0 }, from_json(value))
                })
                .collect(),
        ),
    };
    Node { line: 0, column: 0, value }
}

/// The same value as JSON, which is how it is stored: keys sorted, comments gone.
pub fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(int) => Json::from(*int),
        Value::Float(float) => Json::from(*float),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (key.name.clone(), to_json(value))).collect())
        }
    }
}

impl Node {
    /// The value under a key of a map; none for other kinds of value.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The same, so many lines further down.
    fn lower(mut self, lines: u32) -> Node {
        self.line = self.line.saturating_add(lines);
        self.value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| item.lower(lines)).collect()),
            Value::Map(entries) => {
                Value::Map(entries.into_iter().map(|(key, value)| (key.lower(lines), value.lower(lines))).collect())
            }
            other => other,
        };
        self
    }

    /// What this is, in the words of a message.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Key {
    fn lower(self, lines: u32) -> Key {
        Key { line: self.line.saturating_add(lines), ..self }
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Without the parser's advice to whoever programs it, and without the place, which is told apart.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or("not valid YAML").trim();
    let line = line.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
    line.split_once(" at line ").map_or(line.as_str(), |(reason, _)| reason).to_string()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node {
            line: narrow(spanned.referenced.line()),
            column: narrow(spanned.referenced.column()),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Value, E> {
        Ok(Value::Int(int))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Value, E> {
        Ok(i64::try_from(int).map_or(Value::Float(int as f64), Value::Int))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(Value::Float(float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let at = (narrow(key.referenced.line()), narrow(key.referenced.column()));
            map.push((Key { name: key.value, line: at.0, column: at.1 }, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
#[path = "node_test.rs"]
mod node_test;
