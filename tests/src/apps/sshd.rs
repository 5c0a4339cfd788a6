//! OpenSSH's server and its clients, with keys made for this run. The server speaks first.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use super::daemon::Daemon;
use crate::command::Command;
use crate::error::Error;
use crate::find;
use crate::host::Host;
use crate::process::Finished;

const KEYGEN: Duration = Duration::from_secs(10);

/// A running sshd that lets root in with one key.
pub struct Sshd {
    daemon: Daemon,
}

impl Sshd {
    /// Needs real root: it changes users as it is made to.
    ///
    /// # Errors
    /// When OpenSSH is not installed or does not start.
    pub fn start(host: &Host, port: u16) -> Result<Sshd, Error> {
        host.run(own_run_directory).map_err(|error| Error::system("a /run of the host's own", error))?;
        let daemon = Daemon::start(host, port, |directory| {
            for name in ["host_key", "client_key"] {
                let key = directory.join(name);
                let keygen = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
                let made = host.output(keygen, KEYGEN)?;
                if !made.status.success() {
                    return Err(Error::Unexpected(format!("ssh-keygen: {}{}", made.stdout, made.stderr)));
                }
            }
            let configuration = directory.join("sshd_config");
            fs::write(&configuration, configuration_text(directory, port))
                .map_err(|error| Error::system("writing sshd_config", error))?;
            // sshd starts itself again for each connection, hence the whole path.
            Ok(Command::new(find::required("sshd")?).args(["-D", "-e", "-f"]).arg(configuration))
        })?;
        Ok(Sshd { daemon })
    }

    /// `ssh` or `scp` on `host`, with the key and without questions; `port` by the option that each has for it.
    ///
    /// # Errors
    /// When it is not installed or outlives the deadline.
    pub fn client(
        &self,
        host: &Host,
        program: &str,
        port: u16,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Finished, Error> {
        let port_option = if program == "scp" { "-P" } else { "-p" };
        let key = self.daemon.directory().join("client_key");
        let command = Command::new(program)
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", port_option, &port.to_string(), "-i"])
            .arg(key);
        host.output(command.args(arguments), deadline)
    }

    /// Its log, for messages.
    pub fn log(&self) -> String {
        self.daemon.process().last_lines()
    }
}

fn configuration_text(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    format!(
        "Port {port}\nHostKey {directory}/host_key\nAuthorizedKeysFile {directory}/client_key.pub\nPidFile none\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nStrictModes no\nUseDNS no\n\
         Subsystem sftp internal-sftp\n"
    )
}

/// sshd insists on an empty `/run/sshd`: the host, which has mounts of its own, gets a `/run` of its own for it.
fn own_run_directory() -> std::io::Result<()> {
    if !Path::new("/run/sshd").exists() {
        mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
        fs::create_dir("/run/sshd")?;
    }
    Ok(())
}
