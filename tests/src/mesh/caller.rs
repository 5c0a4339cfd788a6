//! Calls that an app makes: curl where it is installed, the world's own client where not. Neither knows of the mesh.

use std::time::Duration;

use crate::apps::{self, Request};
use crate::find;
use crate::host::Host;

/// A refused caller must not wait longer than this for its answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// From the bytes of one HTTP/1 answer whose body ends with the bytes.
    pub(super) fn parse(text: &str) -> Result<Answer, String> {
        let mut rest = text;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").ok_or_else(|| format!("not an HTTP answer: {text:?}"))?;
            let mut lines = head.lines();
            let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
            let status: u16 = status.ok_or_else(|| format!("not an HTTP answer: {text:?}"))?;
            // An interim answer (RFC 9110, 15.2) comes before the one that counts.
            if (100..200).contains(&status) {
                rest = body;
                continue;
            }
            let headers = lines.filter_map(|line| line.split_once(':'));
            let headers = headers.map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned())).collect();
            return Ok(Answer { status, headers, body: body.to_owned() });
        }
    }
}

/// Which program plays the apps' HTTP client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    curl: bool,
}

impl Caller {
    pub(super) fn new(built_in_only: bool) -> Caller {
        Caller { curl: !built_in_only && find::program("curl").is_some() }
    }

    pub(super) fn name(self) -> &'static str {
        if self.curl { "curl" } else { "built-in client" }
    }

    pub(super) fn get(self, host: &Host, url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let failed = |e: &dyn std::fmt::Display| format!("GET {url} from {}: {e}", host.name());
        if self.curl {
            let mut arguments = Vec::new();
            for (name, value) in headers {
                arguments.extend(["-H".to_owned(), format!("{name}: {value}")]);
            }
            // Only the hosts file and the mesh: no proxy of the user's environment comes between.
            arguments.extend(["--http1.1", "--noproxy", "*", url].map(str::to_owned));
            let fetched = apps::curl(host, &arguments, DEADLINE).map_err(|e| failed(&e))?;
            return match fetched.error {
                Some(why) => Err(failed(&why)),
                None => Ok(Answer { status: fetched.status, headers: fetched.headers, body: fetched.body }),
            };
        }
        let request = headers.iter().fold(Request::get(url), |request, (name, value)| request.header(name, value));
        let response = request.send(host, DEADLINE).map_err(|e| failed(&e))?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = response.headers.iter().map(|(n, v)| (n.as_str().to_owned(), text(v.as_bytes()))).collect();
        Ok(Answer { status: response.status, headers, body: response.text() })
    }
}
