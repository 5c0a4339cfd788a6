//! Calls that an app makes: curl where it is installed, the world's own client where not. Neither knows of the mesh.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::Command;
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
#[derive(Debug, Clone)]
pub(super) struct Caller {
    curl: Option<PathBuf>,
}

impl Caller {
    pub(super) fn find() -> Caller {
        Caller { curl: find::program("curl") }
    }

    pub(super) fn name(&self) -> &'static str {
        if self.curl.is_some() { "curl" } else { "built-in client" }
    }

    pub(super) fn get(&self, host: &Host, url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        match &self.curl {
            Some(curl) => with_curl(curl, host, url, headers),
            None => super::built_in::get(host, url, headers, DEADLINE),
        }
    }
}

fn with_curl(curl: &PathBuf, host: &Host, url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    let mut command = Command::new(curl).args(["--silent", "--show-error", "--include", "--http1.1", "--max-time", "10"]);
    // Only the hosts file and the mesh: no proxy of the user's environment comes between.
    command = command.args(["--noproxy", "*"]);
    for (name, value) in headers {
        command = command.arg("--header").arg(format!("{name}: {value}"));
    }
    let done = host.output(command.arg(url), DEADLINE * 2).map_err(|e| e.to_string())?;
    if !done.status.success() {
        return Err(format!("curl {url} from {}: {} {}", host.name(), done.status, done.stderr.trim()));
    }
    // The world keeps lines; HTTP's own line ends were kept within them.
    Answer::parse(&done.stdout)
}
