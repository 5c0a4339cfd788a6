//! curl as these cases need it: heads and bodies byte by byte, in files, and what curl counted.

use std::fs;

use isthmus_world::Command;

use crate::shop::{NAME, Shop};

/// One answer, or the last of several.
pub(crate) struct Got {
    pub(crate) status: u16,
    /// As curl writes it: `1.0`, `1.1`, `2`.
    pub(crate) version: String,
    /// All heads and trailers, in order, as they came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// New connections, for each transfer.
    pub(crate) connects: Vec<u32>,
    /// Bytes of body that were sent.
    pub(crate) uploaded: u64,
    /// What curl said with `--verbose`.
    pub(crate) said: String,
}

impl std::fmt::Debug for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(500).collect();
        let Got { status, version, connects, uploaded, .. } = self;
        let facts = format!("HTTP/{version} {status}, connects {connects:?}, {uploaded} bytes sent");
        write!(f, "{facts}, {} bytes of body: {text:?}\n{}", self.body.len(), self.said)
    }
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A field of any head, by its name in any case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next_back()
    }
}

/// The URL of a port of the service.
pub(crate) fn url(port: u16, path: &str) -> String {
    format!("http://{NAME}:{port}{path}")
}

/// curl on `from`, which must get an answer. Several URLs: their bodies one after the other.
pub(crate) fn curl(shop: &Shop, from: &str, arguments: &[&str], urls: &[String]) -> Result<Got, String> {
    let (head, body) = (shop.file("head"), shop.file("body"));
    // What an earlier transfer left is not this one's answer.
    [&head, &body].into_iter().for_each(|file| drop(fs::remove_file(file)));
    let mut command = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--verbose", "--noproxy", "*", "--max-time", "50"])
        .args(["--write-out", "isthmus-curl %{http_code} %{http_version} %{num_connects} %{size_upload}\n"])
        .arg("--dump-header")
        .arg(&head)
        .args(arguments);
    // curl wants one --output for each URL; a character device takes all but the last.
    for (place, url) in urls.iter().enumerate() {
        let last = place + 1 == urls.len();
        command = command.arg("--output").arg(if last { body.as_os_str() } else { "/dev/null".as_ref() }).arg(url);
    }
    let done = shop.output(from, command)?;
    if !done.status.success() {
        return Err(format!("curl {arguments:?} {urls:?} on {from}: {}\n{}", done.status, done.stderr));
    }
    let facts: Vec<Vec<&str>> = done
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("isthmus-curl "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let last = facts.last().filter(|facts| facts.len() == 4).ok_or_else(|| format!("curl wrote {:?}", done.stdout))?;
    Ok(Got {
        status: last[0].parse().unwrap_or_default(),
        version: last[1].to_owned(),
        head: String::from_utf8_lossy(&fs::read(&head).unwrap_or_default()).into_owned(),
        body: fs::read(&body).unwrap_or_default(),
        connects: facts.iter().map(|facts| facts.get(2).and_then(|n| n.parse().ok()).unwrap_or(99)).collect(),
        uploaded: last[3].parse().unwrap_or_default(),
        said: done.stderr,
    })
}
