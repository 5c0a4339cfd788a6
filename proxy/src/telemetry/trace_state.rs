//! `tracestate`, as <https://www.w3.org/TR/trace-context/#tracestate-header> has it: a list of vendors' members that is
//! passed on as it came, or not at all.

use http::HeaderValue;
use http::header::GetAll;

/// The most members the recommendation allows.
const MAX_MEMBERS: usize = 32;
/// The recommendation asks for at least 512 characters to be passed on; more than this is not.
const MAX_LENGTH: usize = 4096;

/// The list of all `tracestate` headers as one, or `None` where there is none or it breaks a rule.
pub(super) fn parse(headers: GetAll<'_, HeaderValue>) -> Option<HeaderValue> {
    let mut headers = headers.into_iter();
    let first = headers.next()?;
    let joined = match headers.next() {
        None => first.clone(),
        Some(second) => {
            let mut all = first.as_bytes().to_vec();
            for more in std::iter::once(second).chain(headers) {
                all.push(b',');
                all.extend_from_slice(more.as_bytes());
                if all.len() > MAX_LENGTH {
                    return None;
                }
            }
            HeaderValue::from_bytes(&all).ok()?
        }
    };
    is_valid(joined.as_bytes()).then_some(joined)
}

fn is_valid(list: &[u8]) -> bool {
    if list.len() > MAX_LENGTH {
        return false;
    }
    let mut keys: [&[u8]; MAX_MEMBERS] = [&[]; MAX_MEMBERS];
    let mut members = 0;
    for member in list.split(|byte| *byte == b',') {
        let member = trim_ows(member);
        if member.is_empty() {
            continue; // Empty members are allowed.
        }
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else {
            return false;
        };
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if members == MAX_MEMBERS || !is_key(key) || !is_value(value) || keys[..members].contains(&key) {
            return false;
        }
        keys[members] = key;
        members += 1;
    }
    members > 0
}

fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_key(key: &[u8]) -> bool {
    let rest_ok =
        |rest: &[u8]| rest.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let Some(at) = key.iter().position(|byte| *byte == b'@') else {
        return matches!(key, [b'a'..=b'z', rest @ ..] if rest.len() <= 255 && rest_ok(rest));
    };
    let (tenant, system) = (&key[..at], &key[at + 1..]);
    matches!(tenant, [b'a'..=b'z' | b'0'..=b'9', rest @ ..] if rest.len() <= 240 && rest_ok(rest))
        && matches!(system, [b'a'..=b'z', rest @ ..] if rest.len() <= 13 && rest_ok(rest))
}

fn is_value(value: &[u8]) -> bool {
    // Trailing blanks went with the OWS around the member, so that the last byte is a nblk-chr already.
    (1..=256).contains(&value.len()) && value.iter().all(|byte| matches!(byte, 0x20..=0x7e if !b",=".contains(byte)))
}
