//! curl, the client that everybody has; and the built-in one where it is missing.

use std::net::SocketAddr;
use std::time::Duration;

use super::client::Request;
use crate::command::Command;
use crate::error::Error;
use crate::find;
use crate::host::Host;
use crate::process::Finished;

/// Between the body and what curl says of the transfer.
const MARK: &str = "\nisthmus-curl ";

/// What a client got, whichever it was.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// `curl` or `built-in client`.
    pub by: &'static str,
    /// The status; 0 when there was no answer.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// From the start to the last byte.
    pub took: Duration,
    /// Why there was no answer, in the client's words.
    pub error: Option<String>,
}

impl Fetched {
    /// A header field; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// GET with curl where it is installed, otherwise with the built-in client. `to` as in `curl --connect-to`.
///
/// # Errors
/// Only when the client itself could not be run; no answer is a [`Fetched`] with an error.
pub fn fetch(
    host: &Host,
    url: &str,
    headers: &[(&str, &str)],
    to: Option<SocketAddr>,
    deadline: Duration,
) -> Result<Fetched, Error> {
    if find::program("curl").is_none() {
        return Ok(built_in(host, url, headers, to, deadline));
    }
    let mut arguments: Vec<String> =
        headers.iter().flat_map(|(name, value)| ["-H".into(), format!("{name}: {value}")]).collect();
    if let Some(to) = to {
        arguments.extend(["--connect-to".into(), format!("::{to}")]);
    }
    arguments.push(url.to_owned());
    curl(host, &arguments, deadline)
}

/// Runs curl with these arguments (the URL among them), quietly and with any certificate.
///
/// # Errors
/// When it is not installed or outlives `deadline` by more than a second.
pub fn curl<S: AsRef<str>>(host: &Host, arguments: &[S], deadline: Duration) -> Result<Fetched, Error> {
    let format = format!("{MARK}%{{http_code}} %{{time_total}}");
    let command = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--include", "--write-out", &format])
        .args(["--max-time", &deadline.as_secs_f64().to_string()])
        .args(arguments.iter().map(AsRef::as_ref));
    let finished = host.output(command, deadline + Duration::from_secs(1))?;
    read(&finished).ok_or_else(|| Error::Unexpected(format!("curl said {:?} {:?}", finished.stdout, finished.stderr)))
}

fn read(finished: &Finished) -> Option<Fetched> {
    let (answer, facts) = finished.stdout.rsplit_once(MARK)?;
    let mut facts = facts.split_whitespace();
    let status = facts.next()?.parse().ok()?;
    let took = facts.next()?.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())?;
    // Lines were read without their ends: a carriage return is still there. Interim answers (1xx) come first.
    let answer = answer.replace('\r', "");
    let mut rest = answer.as_str();
    let mut headers = Vec::new();
    while rest.starts_with("HTTP/") {
        let (head, body) = rest.split_once("\n\n").unwrap_or((rest, ""));
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        rest = body;
    }
    let failed = !finished.status.success();
    let error = failed.then(|| finished.stderr.trim().to_owned());
    Some(Fetched { by: "curl", status, headers, body: rest.to_owned(), took, error })
}

fn built_in(host: &Host, url: &str, headers: &[(&str, &str)], to: Option<SocketAddr>, deadline: Duration) -> Fetched {
    let mut request = headers.iter().fold(Request::get(url), |request, (name, value)| request.header(name, value));
    if let Some(to) = to {
        request = request.to(to);
    }
    let start = std::time::Instant::now();
    let result = request.send(host, deadline);
    let took = start.elapsed();
    let none =
        Fetched { by: "built-in client", status: 0, headers: Vec::new(), body: String::new(), took, error: None };
    match result {
        Ok(response) => {
            let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = response.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            Fetched { status: response.status, headers, body: response.text(), ..none }
        }
        Err(error) => Fetched { error: Some(error.to_string()), ..none },
    }
}
