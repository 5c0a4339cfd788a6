//! What a machine brings along: systemd or not, the proxy's user, and programs that are run with a deadline.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::record::PROXY_UID;
use crate::failure::Failure;

/// The unit as deploy/ ships it; `join` only changes its paths.
const UNIT: &str = include_str!("../../../deploy/systemd/isthmus-proxy.service");
pub(crate) const UNIT_NAME: &str = "isthmus-proxy.service";
const USER: &str = "isthmus";
/// systemctl waits for the unit to start; the unit is `Type=exec`, so this is ample.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Service {
    /// systemd where it runs this machine, else none.
    Auto,
    /// Install and start isthmus-proxy.service.
    Systemd,
    /// Write the files and print the command that starts the proxy.
    None,
}

impl Service {
    /// True: systemd. `/run/systemd/system` is how sd_booted(3) knows.
    pub(crate) fn is_systemd(self) -> Result<bool, Failure> {
        let booted = Path::new("/run/systemd/system").is_dir();
        match self {
            Self::Auto => Ok(booted),
            Self::None => Ok(false),
            Self::Systemd if booted => Ok(true),
            Self::Systemd => {
                Err(Failure::new("this machine does not run systemd", "--service none, and start the proxy yourself"))
            }
        }
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn unit_path() -> PathBuf {
    Path::new("/etc/systemd/system").join(UNIT_NAME)
}

/// The unit for this binary and these directories.
pub(crate) fn unit(binary: &Path, config: &Path, state_dir: &Path) -> Result<String, Failure> {
    for path in [binary, config, state_dir] {
        // systemd splits on blanks and expands % and $; quoting rules differ by directive.
        if !path.to_str().is_some_and(|p| p.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))) {
            let what = format!("{}: systemd would read this path as something else", path.display());
            return Err(Failure::new(what, "use a path of letters, digits and / . _ - +"));
        }
    }
    if ["/home", "/root", "/tmp", "/var/tmp", "/run/user"].iter().any(|hidden| binary.starts_with(hidden)) {
        let what = format!("{}: the unit does not see this directory (ProtectHome, PrivateTmp)", binary.display());
        return Err(Failure::new(
            what,
            format!("sudo install -m 0755 {} /usr/local/bin/isthmus, then join with that", binary.display()),
        ));
    }
    let start = format!("{} proxy --config {}", binary.display(), config.display());
    let mut text = UNIT.replace("/usr/local/bin/isthmus proxy --config /etc/isthmus/proxy.yaml", &start);
    if state_dir != Path::new("/var/lib/isthmus") {
        let own = format!("ReadWritePaths={}\nRuntimeDirectory=isthmus\n", state_dir.display());
        text = text.replace("StateDirectory=isthmus\nStateDirectoryMode=0700\nRuntimeDirectory=isthmus\n", &own);
    }
    Ok(text)
}

/// Makes the user that the proxy runs as. True: it did not exist. Refused where the uid or the name is somebody else's,
/// because capture exempts whatever runs as that uid.
pub(crate) async fn ensure_user() -> Result<bool, Failure> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if proxy_user(&passwd)? {
        return Ok(false);
    }
    let uid = PROXY_UID.to_string();
    let args = ["--system", "--uid", &uid, "--user-group", "--no-create-home", "--home-dir", "/nonexistent"];
    run("useradd", &[&args[..], &["--shell", "/usr/sbin/nologin", USER]].concat()).await?;
    Ok(true)
}

/// True: it is there, as it should be.
pub(crate) fn proxy_user(passwd: &str) -> Result<bool, Failure> {
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        match (name == USER, uid == PROXY_UID.to_string()) {
            (true, true) => return Ok(true),
            (false, true) => {
                return Err(Failure::new(
                    format!("uid {PROXY_UID} belongs to the user `{name}`, and what runs as it would escape capture"),
                    format!("give `{name}` another uid"),
                ));
            }
            (true, false) => {
                return Err(Failure::new(
                    format!("there is a user `{USER}` with uid {uid}; the proxy's must have {PROXY_UID}"),
                    format!("rename or remove the user `{USER}`"),
                ));
            }
            (false, false) => {}
        }
    }
    Ok(false)
}

pub(crate) async fn remove_user() -> Result<(), Failure> {
    run("userdel", &[USER]).await
}

pub(crate) async fn systemctl(args: &[&str]) -> Result<(), Failure> {
    run("systemctl", args).await
}

async fn run(program: &str, args: &[&str]) -> Result<(), Failure> {
    let shown = format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).kill_on_drop(true).output();
    match timeout(LIMIT, output).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::new(format!("`{shown}` failed ({}): {said}", output.status), "run it by hand to see more"))
        }
        Ok(Err(e)) => {
            Err(Failure::new(format!("`{program}` could not be run: {e}"), "install it, or use --service none"))
        }
        Err(_) => {
            Err(Failure::timed_out(format!("`{shown}` did not end within {LIMIT:?}"), "run it by hand to see more"))
        }
    }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod machine_test;
