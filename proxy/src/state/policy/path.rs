//! Paths, which apps read in more ways than one.
//!
//! Frameworks differ in whether they decode `%61`, collapse `//`, resolve `..`, strip `;params` and turn `\` into `/`
//! (CVE-2021-29492, CVE-2021-32779 and many like them: an encoded path walked past a proxy's rule). We never rewrite what the
//! app gets. Instead:
//! - `//`, `.` and `..` segments, `%2e` `%2f` `%5c` `%00`, `\`, NUL and other control bytes, `#`, double encoding, `%` without two hex digits,
//!   and what does not start with `/`: the path is unknown, so that no allow and every deny on paths is satisfied;
//! - other encodings and `;params`: the rule is tried on each reading, and where they disagree the path is unknown.

use std::borrow::Cow;

use isthmus_proto::model::PathPattern;

use super::matching::Holds;

/// The ways in which an app may read one path.
pub(super) enum PathReadings<'a> {
    Ambiguous,
    Clear(&'a str),
    /// As it came; decoded; decoded and without parameters.
    Several([Cow<'a, [u8]>; 3]),
}

impl<'a> PathReadings<'a> {
    pub(super) fn of(target: &'a str) -> Self {
        let raw = target.split_once('?').map_or(target, |(path, _)| path);
        if is_plain(raw.as_bytes()) {
            return Self::Clear(raw);
        }
        if !raw.starts_with('/') || raw.bytes().any(|b| b == b'\\' || b == b'#' || b.is_ascii_control()) {
            return Self::Ambiguous;
        }
        if has_ambiguous_segment(raw.as_bytes()) {
            return Self::Ambiguous;
        }
        if !raw.bytes().any(|b| b == b'%' || b == b';') {
            return Self::Clear(raw);
        }
        let Some(decoded) = decode(raw.as_bytes()) else {
            return Self::Ambiguous;
        };
        let stripped = without_parameters(&decoded);
        if has_ambiguous_segment(&decoded) || has_ambiguous_segment(&stripped) {
            return Self::Ambiguous;
        }
        Self::Several([raw.as_bytes().into(), decoded.into(), stripped.into()])
    }

    pub(super) fn hold(&self, patterns: &[PathPattern]) -> Holds {
        let any = |path: &[u8]| patterns.iter().any(|pattern| matches(pattern, path));
        match self {
            Self::Ambiguous => Holds::Unknown,
            Self::Clear(path) if any(path.as_bytes()) => Holds::Yes,
            Self::Clear(_) => Holds::No,
            Self::Several(readings) => match readings.iter().filter(|path| any(path)).count() {
                0 => Holds::No,
                all if all == readings.len() => Holds::Yes,
                _ => Holds::Unknown,
            },
        }
    }
}

fn matches(pattern: &PathPattern, path: &[u8]) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact.as_bytes() == path,
        PathPattern::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
        PathPattern::Template(template) => template.matches(path, |written, part| written == part),
    }
}

/// Nearly all paths: one pass, and nothing in them that could be read in two ways.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    let plain = path.iter().all(|b| {
        let odd = matches!(b, b'\\' | b'#' | b'%' | b';') || b.is_ascii_control();
        let steps = after_slash && matches!(b, b'/' | b'.');
        after_slash = *b == b'/';
        !odd && !steps
    });
    plain && path.first() == Some(&b'/')
}

/// An empty segment other than the last (`//`), or one that steps (`.`, `..`).
fn has_ambiguous_segment(path: &[u8]) -> bool {
    let steps = path.split(|b| *b == b'/').any(|segment| segment == b"." || segment == b"..");
    steps || path.windows(2).any(|pair| pair == b"//")
}

/// `None`: decodes to something that changes the path's structure, or not at all.
fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        let byte = hex(*high)? << 4 | hex(*low)?;
        // A decoded `%` could start a second encoding.
        if matches!(byte, b'.' | b'/' | b'\\' | b'%' | b'#' | b'?') || byte.is_ascii_control() {
            return None;
        }
        out.push(byte);
        rest = tail;
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// Each segment up to its first `;` (RFC 3986 §3.3; servlet containers strip what follows).
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |segment: &[u8]| segment.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    path.split(|b| *b == b'/').map(bare).collect::<Vec<_>>().join(&b'/')
}
