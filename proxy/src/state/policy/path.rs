//! Paths, which apps read in more ways than one.
//!
//! Frameworks differ in whether they decode `%61`, collapse `//`, resolve `..`, strip `;params` and turn `\` into `/`
//! (CVE-2021-29492, CVE-2021-32779 and many like them: an encoded path walked past a proxy's rule). Therefore:
//! - [`normalise`] brings a path into the one form of RFC 3986 §6 that rules are compared with and the app receives:
//!   encodings of unreserved characters are decoded, the others written in upper case, `//` is one `/`, `.` and `..`
//!   are resolved;
//! - what has no such form is *unknown*, so that no allow and every deny on paths is satisfied: `%2f` `%5c` `%00`
//!   `%25` `%23` `%3f`, `\`, `#`, NUL and other control bytes, `%` without two hex digits, what decodes to no UTF-8
//!   (`%c0%ae` was a `.` to old readers), `..` above the root, and what does not start with `/`;
//! - what is left encoded (`%40`) is compared decoded, as rules are written; a rule is tried on `;params` and without
//!   them, and where these disagree the path is unknown;
//! - so it is where only the case of letters or a `/` at the end differs: some apps take the two for one.

use std::borrow::Cow;

use isthmus_proto::model::PathPattern;

use super::matching::Holds;

/// A path without query, in the form that rules are compared with. `None`: it has none.
pub fn normalise(path: &str) -> Option<Cow<'_, str>> {
    if is_plain(path.as_bytes()) {
        return Some(path.into());
    }
    if !path.starts_with('/') || path.bytes().any(|b| matches!(b, b'\\' | b'#' | b'?') || b.is_ascii_control()) {
        return None;
    }
    let decoded = match path.contains('%') {
        true if std::str::from_utf8(&decode(path.as_bytes())?).is_err() => return None,
        true => decode_unreserved(path)?.into(),
        false => Cow::Borrowed(path),
    };
    let steps = |path: &str| path.contains("//") || path.split('/').any(|segment| matches!(segment, "." | ".."));
    if steps(&decoded) { resolve(&decoded).map(Cow::Owned) } else { Some(decoded) }
}

/// RFC 3986 §6.2.2.1 and §6.2.2.2. `None`: something decodes to what changes the path's structure, or not at all.
fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        let byte = encoded_byte(rest.as_bytes().get(percent + 1..percent + 3)?)?;
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[percent + 3..];
    }
    out.push_str(rest);
    Some(out)
}

/// What two hex digits stand for, unless it is a `/`, a control byte, or begins something anew.
fn encoded_byte(digits: &[u8]) -> Option<u8> {
    let &[high, low] = digits else { return None };
    let byte = hex(high)? << 4 | hex(low)?;
    (!matches!(byte, b'/' | b'\\' | b'%' | b'#' | b'?') && !byte.is_ascii_control()).then_some(byte)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// RFC 3986 §5.2.4, after empty segments are gone. `None`: it leads above the root.
fn resolve(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(1) {
        // What ends in a step is a directory.
        open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop()?;
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if open || kept.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// The ways in which an app may read one normal path. What is encoded is none of them: no rule has a `%`, so that what
/// holds of the encoded form holds of the decoded one.
pub(super) enum PathReadings<'a> {
    Ambiguous,
    Clear(Cow<'a, str>),
    /// Decoded; decoded and without parameters.
    Several(Box<[Vec<u8>; 2]>),
}

impl<'a> PathReadings<'a> {
    /// Of a request's target, with or without query.
    pub(super) fn of(target: &'a str) -> Self {
        let raw = target.split_once('?').map_or(target, |(path, _)| path);
        let Some(path) = normalise(raw) else { return Self::Ambiguous };
        if !path.bytes().any(|b| matches!(b, b'%' | b';')) {
            return Self::Clear(path);
        }
        let Some(decoded) = decoded(&path) else { return Self::Ambiguous };
        if !decoded.contains(';') {
            return Self::Clear(decoded.into());
        }
        let stripped = without_parameters(decoded.as_bytes());
        if has_ambiguous_segment(&stripped) {
            return Self::Ambiguous;
        }
        Self::Several(Box::new([decoded.into_bytes(), stripped]))
    }

    pub(super) fn hold(&self, patterns: &[PathPattern]) -> Holds {
        match self {
            Self::Ambiguous => Holds::Unknown,
            Self::Clear(path) => one_holds(patterns, path.as_bytes()),
            Self::Several(readings) => {
                let [whole, stripped] = readings.each_ref().map(|reading| one_holds(patterns, reading));
                if whole == stripped { whole } else { Holds::Unknown }
            }
        }
    }
}

fn one_holds(patterns: &[PathPattern], path: &[u8]) -> Holds {
    if patterns.iter().any(|pattern| matches(pattern, path)) {
        Holds::Yes
    } else if patterns.iter().any(|pattern| nearly_matches(pattern, path)) {
        Holds::Unknown
    } else {
        Holds::No
    }
}

fn matches(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact.as_bytes() == path,
        PathPattern::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
        PathPattern::Template(template) => template.matches(path, |written, part| written == part),
    }
}

/// But for the case of letters and a `/` at the end: `/orders` is nearly of `/orders/*`.
fn nearly_matches(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(exact) => bare(exact.as_bytes()).eq_ignore_ascii_case(bare(path)),
        PathPattern::Prefix(prefix) => {
            path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
                || bare(prefix.as_bytes()).eq_ignore_ascii_case(path)
        }
        PathPattern::Template(template) if template.is_open() => {
            template.begins(path, <[u8]>::eq_ignore_ascii_case).is_some()
        }
        PathPattern::Template(template) => template.matches(bare(path), <[u8]>::eq_ignore_ascii_case),
    }
}

/// Without the `/` at its end; the root stays.
pub(super) fn bare(path: &[u8]) -> &[u8] {
    match path {
        [rest @ .., b'/'] if !rest.is_empty() => rest,
        path => path,
    }
}

/// What each byte may be the beginning of.
const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const DOT: u8 = 2;
const ODD: u8 = 3;

static CLASS: [u8; 256] = {
    let mut class = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b'/' => SLASH,
            b'.' => DOT,
            b'\\' | b'#' | b'%' | b';' | b'?' | 0..=31 | 127 => ODD,
            _ => PLAIN,
        };
        byte += 1;
    }
    class
};

/// Nearly all paths: one pass, and nothing in them that could be read in two ways.
fn is_plain(path: &[u8]) -> bool {
    let mut before = PLAIN;
    for byte in path {
        let class = CLASS[usize::from(*byte)];
        if class == ODD || (before == SLASH && class != PLAIN) {
            return false;
        }
        before = class;
    }
    path.first() == Some(&b'/')
}

/// An empty segment other than the last (`//`), or one that steps (`.`, `..`).
fn has_ambiguous_segment(path: &[u8]) -> bool {
    let steps = path.split(|b| *b == b'/').any(|segment| segment == b"." || segment == b"..");
    steps || path.windows(2).any(|pair| pair == b"//")
}

/// A path without its encodings, as rules are written.
pub(super) fn decoded(path: &str) -> Option<String> {
    String::from_utf8(decode(path.as_bytes())?).ok()
}

/// Every encoding of a path.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        out.push(encoded_byte(tail.get(..2)?)?);
        rest = &tail[2..];
    }
    Some(out)
}

/// Each segment up to its first `;` (RFC 3986 §3.3; servlet containers strip what follows).
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |segment: &[u8]| segment.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    path.split(|b| *b == b'/').map(bare).collect::<Vec<_>>().join(&b'/')
}
