//! Paths and rules on them: the normal form is one, and whatever an app may make of the path that it receives, a deny is
//! not walked past.

use http::HeaderMap;
use isthmus_proto::model::{Action, Conditions, PortPolicy, Rule, RuleMode, TlsVersion, Transport};
use isthmus_proxy::state::policy::path::normalise;
use isthmus_proxy::state::policy::{CompiledPolicy, Facts, HttpFacts, decide};

pub fn run(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    let received = match normalise(path) {
        Some(normal) => {
            assert_eq!(normalise(&normal).as_deref(), Some(&*normal), "of {path:?}");
            assert!(normal.starts_with('/') && !normal.contains("//") && !normal.contains('\\'), "{normal:?}");
            assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{normal:?}");
            normal.into_owned()
        }
        None => path.to_owned(),
    };
    let allowed = passes(&received);
    assert!(!allowed || !app_readings(&received).iter().any(|reading| reading.starts_with("/admin")), "{received:?}");
    assert!(!(allowed && passes_only_admin(&received)), "allowed and refused for being it: {received:?}");
}

fn rule(path: &str) -> Rule {
    let conditions = Conditions { paths: Some(vec![path.parse().expect("a path")]), ..Conditions::default() };
    Rule { policy: "a/b".into(), index: 0, mode: RuleMode::Enforce, until_ms: None, conditions: Ok(conditions) }
}

fn decides(deny: Vec<Rule>, allow: Vec<Rule>, default_action: Action, path: &str) -> bool {
    let policy = CompiledPolicy::new(PortPolicy {
        transport: Transport::MeshOnly,
        min_tls_version: TlsVersion::V1_2,
        deny,
        allow,
        default_action,
        default_from: None,
    });
    let headers = HeaderMap::new();
    let http = Some(HttpFacts { host: None, method: "GET", path, headers: &headers });
    let peer_ip = std::net::IpAddr::from([10, 0, 0, 1]);
    let facts = Facts { peer: None, foreign: false, peer_ip, peer_site: None, behind: None, port: 80, now_ms: 0, http };
    decide(&policy, &facts).allowed
}

/// Where /admin and what is below are denied to all.
fn passes(path: &str) -> bool {
    decides(vec![rule("/admin*")], vec![], Action::Allow, path)
}

/// Where these alone are allowed.
fn passes_only_admin(path: &str) -> bool {
    decides(vec![], vec![rule("/admin*")], Action::Deny, path)
}

/// What careless apps make of a path: each may decode once or twice, overlong UTF-8 included, take `\` for `/`, cut
/// parameters and query off, collapse and resolve segments, and fold letters.
fn app_readings(path: &str) -> Vec<String> {
    let path = path.split(['?', '#']).next().unwrap_or_default().as_bytes().to_vec();
    let once = decoded(&path);
    let mut readings = Vec::new();
    for bytes in [path, decoded(&once), overlong(&once), once] {
        let text = String::from_utf8_lossy(&bytes).to_lowercase().replace('\\', "/");
        let cut = text.split('\0').next().unwrap_or_default().to_owned();
        for text in [text, cut] {
            let bare: Vec<&str> =
                text.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
            readings.extend([resolved(&text), resolved(&bare.join("/"))]);
        }
    }
    readings
}

/// `c0 ae` read as `.`, as decoders once did that do not count bits.
fn overlong(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (0xc0 | 0xc1, [second @ 0x80..=0xbf, after @ ..]) => {
                out.push((first & 1) << 6 | second & 0x3f);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn resolved(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}
