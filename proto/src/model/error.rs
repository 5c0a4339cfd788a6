//! What could not be read, and where.

use std::fmt::Display;

use super::{MAX_LIST, MAX_TEXT};
use crate::FEATURES;

/// A field that cannot be used, and why. Whose fault: the sender's, or ours for being older than it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ModelError {
    /// `ports[0].policy.allow[2].cidrs`
    pub field: String,
    pub reason: String,
}

/// A value, or why it has to be treated as refusing.
pub type Understood<T> = Result<T, ModelError>;

impl ModelError {
    pub fn new(field: impl Into<String>, reason: impl Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }

    /// The same error, seen from the message that holds the field.
    pub fn within(mut self, outer: impl Display) -> Self {
        self.field = if self.field.is_empty() { outer.to_string() } else { format!("{outer}.{}", self.field) };
        self
    }
}

/// What stands in for an unreadable piece when it is written back: no build will ever claim this feature.
pub(super) const NOT_UNDERSTOOD: &str = "not-understood";

pub(super) fn requires(names: &[String]) -> Result<(), ModelError> {
    match crate::missing_feature(names) {
        None => Ok(()),
        Some(name) => {
            let known = FEATURES.join(", ");
            let reason = format!("needs feature `{}`; this build knows {known}: upgrade it", clip(name));
            Err(ModelError::new("requires", reason))
        }
    }
}

/// An enum value that this build does not know, or that was left out where it must be given.
pub(super) fn unknown_value(field: &str, value: i32) -> ModelError {
    let reason = match value {
        0 => "missing".to_owned(),
        other => format!("value {other} is not known to this build: upgrade it"),
    };
    ModelError::new(field, reason)
}

pub(super) fn bounded<T>(field: &str, list: &[T], most: usize) -> Result<(), ModelError> {
    if list.len() > most {
        return Err(ModelError::new(field, format!("{} entries; at most {most}", list.len())));
    }
    Ok(())
}

/// Parses each text of a list; an error names its place.
pub(super) fn each<T, E: Display>(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, ModelError> {
    bounded(field, texts, MAX_LIST)?;
    let parse_one = |(i, text): (usize, &String)| {
        if text.len() > MAX_TEXT {
            return Err(ModelError::new(format!("{field}[{i}]"), format!("longer than {MAX_TEXT} bytes")));
        }
        parse(text).map_err(|e| ModelError::new(format!("{field}[{i}]"), format!("`{}`: {e}", clip(text))))
    };
    texts.iter().enumerate().map(parse_one).collect()
}

/// Converts each message of a list; an error names its place.
pub(super) fn each_message<W, T>(field: &str, messages: Vec<W>) -> Result<Vec<T>, ModelError>
where
    T: TryFrom<W, Error = ModelError>,
{
    bounded(field, &messages, MAX_LIST)?;
    let convert = |(i, message)| T::try_from(message).map_err(|e| e.within(format!("{field}[{i}]")));
    messages.into_iter().enumerate().map(convert).collect()
}

/// Like [`each_message`], but an unreadable one does not spoil the others.
pub(super) fn each_understood<W, T>(field: &str, messages: Vec<W>) -> Result<Vec<Understood<T>>, ModelError>
where
    T: TryFrom<W, Error = ModelError>,
{
    bounded(field, &messages, MAX_LIST)?;
    let convert = |(i, message)| T::try_from(message).map_err(|e| e.within(format!("{field}[{i}]")));
    Ok(messages.into_iter().enumerate().map(convert).collect())
}

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, T::Err> {
    text.parse()
}

pub(super) fn port(field: &str, value: u32) -> Result<u16, ModelError> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ModelError::new(field, format!("{value} is not a port (1 to 65535)"))),
    }
}

/// Keeps a hostile text from filling the log.
fn clip(text: &str) -> &str {
    let end = text.char_indices().nth(100).map_or(text.len(), |(i, _)| i);
    &text[..end]
}
