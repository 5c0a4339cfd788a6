//! One line of the access log: which fields there are, and how they are written, as JSON or by the operator's template.
//!
//! There is no field for headers or bodies, so that no credential can get here by a header's name; values of query
//! parameters that carry credentials are hidden, and nothing that a caller sends can end a line or begin another.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Method, Uri};

use super::metrics::Direction;
use super::span::TraceId;

/// A line may have so many bytes; what a caller sends is cut to keep it.
const MAX_TEXT: usize = 1_024;
/// Query parameters whose values are never written, whatever the configuration says.
const SECRET: [&str; 20] = [
    "access_token",
    "api_key",
    "apikey",
    "assertion",
    "auth",
    "authorization",
    "client_secret",
    "code",
    "credential",
    "id_token",
    "jwt",
    "key",
    "pass",
    "passwd",
    "password",
    "refresh_token",
    "secret",
    "sig",
    "signature",
    "token",
];

/// One request, as it is told.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub direction: Direction,
    pub http2: bool,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub status: u16,
    /// Of a refusal, also where the other sidecar made it.
    pub reason: Option<&'static str>,
    pub decision: Option<&'a str>,
    /// Where spans of it were recorded.
    pub trace: Option<TraceId>,
    /// The transport peer; for what the own app sends, nobody.
    pub caller: Option<IpAddr>,
    /// The caller's or the callee's proven identity.
    pub peer: Option<&'a str>,
    pub destination: SocketAddr,
    /// Until the answer's head was there; the parts where they are known.
    pub total: Duration,
    pub app: Option<Duration>,
    pub link: Option<Duration>,
}

/// How lines are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineFormat {
    Json,
    /// Text with fields in braces.
    Text(Vec<Part>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Field(Field),
}

macro_rules! fields {
    ($($field:ident $word:literal),* $(,)?) => {
        /// What can be told.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field { $($field),* }

        impl Field {
            pub const ALL: &[Field] = &[$(Field::$field),*];

            /// Its name in JSON and in templates.
            pub const fn word(self) -> &'static str {
                match self { $(Field::$field => $word),* }
            }
        }
    };
}

fields! {
    Time "time", Direction "direction", Protocol "protocol", Method "method", Host "host", Path "path", Status "status",
    Reason "reason", Decision "decision", Trace "trace", Caller "caller", Peer "peer", Destination "destination",
    TotalUs "total_us", AppUs "app_us", LinkUs "link_us", ProxyUs "proxy_us",
}

/// What a field holds.
enum Value {
    Number(u64),
    Text(String),
    Nothing,
}

impl LineFormat {
    /// A template such as `{time} {method} {path} {status}`.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(template: &str) -> Result<LineFormat, String> {
        let (mut parts, mut rest) = (Vec::new(), template);
        while let Some(open) = rest.find('{') {
            let (literal, after) = rest.split_at(open);
            let Some((name, after)) = after[1..].split_once('}') else {
                return Err("a { without }: fields stand in braces, as in {status}".to_owned());
            };
            let Some(field) = Field::ALL.iter().copied().find(|field| field.word() == name) else {
                let known: Vec<&str> = Field::ALL.iter().map(|field| field.word()).collect();
                return Err(format!("{{{name}}} is no field; there are {}", known.join(", ")));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(Part::Field(field));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        match parts.iter().any(|part| matches!(part, Part::Field(_))) && !template.contains(char::is_control) {
            true => Ok(LineFormat::Text(parts)),
            false => Err("no field in it, or more than one line".to_owned()),
        }
    }

    /// The whole line with its end. `at_ms`: Unix time. `hidden`: more parameters whose values are not told; `*`: all.
    pub(super) fn write(&self, entry: &Entry<'_>, at_ms: u64, hidden: &[String]) -> String {
        let mut line = String::with_capacity(384);
        match self {
            LineFormat::Json => {
                let all = Field::ALL.iter().filter_map(|field| match value(*field, entry, at_ms, hidden) {
                    Value::Number(number) => Some((field.word().to_owned(), number.into())),
                    Value::Text(text) => Some((field.word().to_owned(), text.into())),
                    Value::Nothing => None,
                });
                let object: serde_json::Map<String, serde_json::Value> = all.collect();
                line.push_str(&serde_json::Value::Object(object).to_string());
            }
            LineFormat::Text(parts) => {
                for part in parts {
                    match part {
                        Part::Literal(text) => line.push_str(text),
                        Part::Field(field) => match value(*field, entry, at_ms, hidden) {
                            Value::Number(number) => push(&mut line, format_args!("{number}")),
                            Value::Text(text) => push_plain(&mut line, &text),
                            Value::Nothing => line.push('-'),
                        },
                    }
                }
            }
        }
        line.push('\n');
        line
    }
}

fn value(field: Field, entry: &Entry<'_>, at_ms: u64, hidden: &[String]) -> Value {
    let micros = |time: Option<Duration>| match time {
        Some(time) => Value::Number(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        None => Value::Nothing,
    };
    let text = |text: Option<String>| text.map_or(Value::Nothing, |text| Value::Text(cut(text)));
    match field {
        Field::Time => Value::Text(rfc3339(at_ms)),
        Field::Direction => Value::Text(entry.direction.word().to_owned()),
        Field::Protocol => Value::Text(if entry.http2 { "HTTP/2" } else { "HTTP/1" }.to_owned()),
        Field::Method => text(Some(entry.method.to_string())),
        Field::Host => text(entry.uri.authority().map(ToString::to_string)),
        Field::Path => text(Some(path(entry.uri, hidden))),
        Field::Status => Value::Number(entry.status.into()),
        Field::Reason => text(entry.reason.map(str::to_owned)),
        Field::Decision => text(entry.decision.map(str::to_owned)),
        Field::Trace => text(entry.trace.map(|trace| trace.to_string())),
        Field::Caller => text(entry.caller.map(|ip| ip.to_string())),
        Field::Peer => text(entry.peer.map(str::to_owned)),
        Field::Destination => text(Some(entry.destination.to_string())),
        Field::TotalUs => micros(Some(entry.total)),
        Field::AppUs => micros(entry.app),
        Field::LinkUs => micros(entry.link),
        Field::ProxyUs => micros(entry.app.map(|app| entry.total.saturating_sub(app + entry.link.unwrap_or_default()))),
    }
}

/// The path with its query, whose secret values are `-`.
fn path(uri: &Uri, hidden: &[String]) -> String {
    let mut text = uri.path().to_owned();
    if let Some(query) = uri.query() {
        text.push('?');
        push_query(&mut text, query, hidden);
    }
    text
}

/// A query whose secret values are `-`, for whoever is told of a request.
pub(super) fn push_query(text: &mut String, query: &str, hidden: &[String]) {
    for (place, pair) in query.split('&').enumerate() {
        if place > 0 {
            text.push('&');
        }
        match pair.split_once('=') {
            Some((name, _)) if is_secret(name, hidden) => push(text, format_args!("{name}=-")),
            _ => text.push_str(pair),
        }
        if text.len() > MAX_TEXT {
            break;
        }
    }
}

/// Names are compared as an app decodes them: `%74oken` is `token`.
fn is_secret(name: &str, hidden: &[String]) -> bool {
    let name = decoded(name);
    hidden.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(&name))
        || SECRET.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

fn decoded(name: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(name.len()), name.as_bytes());
    while let [first, after @ ..] = rest {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                &after[2..]
            }
            (byte, ..) => {
                bytes.push(*byte);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Visible ASCII as it is; all else, and what templates use to part fields, as `\xNN`.
fn push_plain(line: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | b' ' | 0..=0x1f | 0x7f.. => push(line, format_args!("\\x{byte:02x}")),
            byte => line.push(char::from(byte)),
        }
    }
}

fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(text);
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// `2026-11-22T08:05:00.123Z`. Days are counted as Howard Hinnant's `civil_from_days` has it: eras of 400 years that begin
/// in March, so that the leap day is the last of its year.
fn rfc3339(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1_000, at_ms % 1_000);
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
#[path = "access_line_test.rs"]
mod access_line_test;
